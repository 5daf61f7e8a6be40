//! Text to run models on: corpora, tokenization, windows of tokens.
