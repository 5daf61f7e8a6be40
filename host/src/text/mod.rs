//! Text to run models on: corpora, tokenization, windows of tokens.
//!
//! A [`Corpus`] is a list of documents, from a file of the user's or built in. [`cut`] has a
//! model's own [`Tokenizer`] turn it into [`Windows`], sequences of equal length that a model
//! reads one at a time.

mod built_in;
mod corpus;
mod documents;
mod sample;
mod seams;
mod stream;
#[cfg(test)]
mod testing;
mod tokenizer;
mod windows;

pub use corpus::Corpus;
pub use documents::{Kind, documents};
pub use sample::sorted_sample;
pub use tokenizer::Tokenizer;
pub use windows::{Choice, Count, Windows, cut, naming};
