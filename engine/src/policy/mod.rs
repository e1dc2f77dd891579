//! Policies as files: what a module says of itself, what it wants, and how it is made.

mod description;
pub mod difference;
pub mod lock;
mod module;
pub mod origin;
mod pack;
mod parameters;
pub mod signatures;

pub use description::{Description, SECTION};
pub use module::{Import, Inspected, Module, inspect};
pub use pack::pack;
pub use parameters::{from_words, validate, validate_partial};
