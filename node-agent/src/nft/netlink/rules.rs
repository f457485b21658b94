//! What can be told of rules that the kernel holds: enough to guess one in our words, and its comment proves the guess.

use super::attr::{Attribute, Attributes, Malformed};
use super::driver::{INET, Kernel};
use super::error::KernelError;
use super::message::{Message, kind};
use super::udata;
use crate::nft::TABLE;

/// A rule, as far as it can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The chain it is in.
    pub chain: String,
    /// Its comment.
    pub comment: Option<String>,
    /// What it compares with, in order.
    pub values: Vec<Vec<u8>>,
    /// The last mask that it lays over something.
    pub mask: Vec<u8>,
}

impl Kernel {
    /// The rules of our table, those of a chain in their order, and whether nothing changed while they were read.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn outlines(&mut self) -> Result<(Vec<Outline>, bool), KernelError> {
        use super::attr::Write;
        let mut found = Vec::new();
        let whole = self.socket.ask(
            kind::GET_RULE,
            true,
            INET.family.number(),
            |w| w.text(1, TABLE),
            |message| {
                // Not every kernel lists one table only.
                if message.attributes()?.need(1)?.text()? == TABLE {
                    found.push(outline(&message)?);
                }
                Ok(())
            },
        )?;
        Ok((found, whole))
    }
}

fn outline(message: &Message<'_>) -> Result<Outline, Malformed> {
    let attributes = message.attributes()?;
    let notes = attributes.find(7)?.map(|notes| notes.value);
    let mut outline = Outline {
        chain: attributes.need(2)?.text()?.to_owned(),
        comment: notes.and_then(udata::read_comment).map(str::to_owned),
        ..Outline::default()
    };
    let expressions = attributes.find(4)?;
    for expression in expressions.iter().flat_map(Attribute::nested) {
        let expression = expression?.nested();
        let Some(data) = expression.find(2)? else { continue };
        match expression.need(1)?.text()? {
            "cmp" => outline.values.push(bytes(data.nested(), 3)?),
            "bitwise" => outline.mask = bytes(data.nested(), 4)?,
            _ => {}
        }
    }
    Ok(outline)
}

fn bytes(attributes: Attributes<'_>, kind: u16) -> Result<Vec<u8>, Malformed> {
    Ok(attributes.need(kind)?.nested().need(1)?.value.to_vec())
}
