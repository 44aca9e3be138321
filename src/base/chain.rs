//! Error chains on one line.

use std::error::Error;
use std::fmt;

/// Displays an error and its sources as `outer: inner: innermost`.
///
/// Karve's errors keep their source and do not repeat it in their own text, so
/// a chain is printed once, where it is handled.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("reading the config")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn joins_sources() {
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(
            Chain(&error).to_string(),
            "reading the config: disk on fire"
        );
    }
}
