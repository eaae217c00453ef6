"""The exact lab: values, optima and gaps of policies whose completions can be listed."""
