"""How long a text is, without the model's tokenizer."""

CHARACTERS_PER_TOKEN = 4
"""English prose in the tokenizers of today's models, roughly. Only short fixed texts are counted with it: questions
come with their lengths, and messages have the lengths that the servers report."""


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)
