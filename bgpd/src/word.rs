//! What is said to the parent: lines of text, one word each.

use std::fmt;
use std::str::FromStr;

/// How the routes end with the speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At once: the daemon takes leave of its peers, and they drop the routes.
    Withdraw,
    /// Not with the speaker: peers with graceful restart keep the routes until the next daemon has sent its own.
    Keep,
}

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The speaker goes on.
    Alive,
    /// The speaker ends now.
    End(End),
    /// A question: how is it?
    Status,
}

/// A line that is none of the words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a word: {0:?}")]
pub struct NotAWord(pub String);

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Word::Alive => "alive",
            Word::End(End::Withdraw) => "end withdraw",
            Word::End(End::Keep) => "end keep",
            Word::Status => "status",
        })
    }
}

impl FromStr for Word {
    type Err = NotAWord;

    fn from_str(text: &str) -> Result<Self, NotAWord> {
        match text {
            "alive" => Ok(Word::Alive),
            "end withdraw" => Ok(Word::End(End::Withdraw)),
            "end keep" => Ok(Word::End(End::Keep)),
            "status" => Ok(Word::Status),
            other => Err(NotAWord(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for word in [
            Word::Alive,
            Word::End(End::Withdraw),
            Word::End(End::Keep),
            Word::Status,
        ] {
            assert_eq!(word.to_string().parse(), Ok(word));
        }
        for bad in ["", "Alive", "end", "end  keep", "end keep "] {
            assert_eq!(bad.parse::<Word>(), Err(NotAWord(bad.into())));
        }
    }
}
