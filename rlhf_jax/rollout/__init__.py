"""From prompts to `TextRollout` records."""
