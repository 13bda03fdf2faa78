"""Files to token sets and token sets to files, in any number of processes."""

from toolkit.tokens.decode import decode_tokens
from toolkit.tokens.extract import extract_tokens
from toolkit.tokens.shards import read_tokens
from toolkit.tokens.token_set import Summary, summarize, tokenizer_hash
from toolkit.tokens.tokenizing import progress_bar

__all__ = ["Summary", "decode_tokens", "extract_tokens", "progress_bar", "read_tokens", "summarize",
           "tokenizer_hash"]
