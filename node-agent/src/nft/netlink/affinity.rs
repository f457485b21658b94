//! What the kernel remembers of clients: which endpoint each got. It fills these maps itself; we only take out what leads
//! to an endpoint that is gone.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use fairlead_core::forward::Destination;
use fairlead_core::model::Family;

use super::batch::Batch;
use super::decode::Reader;
use super::driver::{INET, Kernel};
use super::error::KernelError;
use super::object::{Data, Element};
use crate::nft::ruleset::{FAMILIES, Set};

/// How often it is tried when elements end by themselves meanwhile.
const TRIES: usize = 5;

/// Endpoints that a destination has no more.
pub type Lost = BTreeSet<(Destination, SocketAddr)>;

/// One choice that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The client's address.
    pub client: IpAddr,
    /// What it is addressed to.
    pub destination: Destination,
    /// What it got.
    pub endpoint: SocketAddr,
}

impl Kernel {
    /// What is remembered.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn remembered(&mut self, family: Family) -> Result<Vec<(Remembered, Element)>, KernelError> {
        let elements = self.socket.elements(INET, &Set::Affinity(family).to_string())?;
        Ok(elements
            .into_iter()
            .filter_map(|element| Some((read(family, &element)?, element)))
            .collect())
    }

    /// Forgets choices of endpoints that are gone. Answers how many.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn forget(&mut self, lost: &Lost) -> Result<usize, KernelError> {
        let mut forgotten = 0;
        for family in FAMILIES {
            if lost.iter().any(|(d, _)| Family::of(d.address) == family) {
                forgotten += self.forget_of(family, lost)?;
            }
        }
        Ok(forgotten)
    }

    fn forget_of(&mut self, family: Family, lost: &Lost) -> Result<usize, KernelError> {
        let mut tries = 0;
        loop {
            let mut all = self.remembered(family)?;
            all.retain(|(known, _)| lost.contains(&(known.destination, known.endpoint)));
            let count = all.len();
            let mut batch = Batch::new(None);
            let keys = all.into_iter().map(|(_, element)| Element {
                data: None,
                ..element
            });
            batch.delete_elements(INET, &Set::Affinity(family).to_string(), keys);
            tries += 1;
            match self.commit(&mut batch) {
                Ok(_) => return Ok(count),
                Err(error) if error.is_stale() && tries < TRIES => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn read(family: Family, element: &Element) -> Option<Remembered> {
    let mut key = Reader(&element.key);
    let client = key.address(family)?;
    let destination = key.destination(family)?;
    let Some(Data::Bytes(data)) = &element.data else {
        return None;
    };
    let mut data = Reader(data);
    let endpoint = SocketAddr::new(data.address(family)?, data.port()?);
    Some(Remembered {
        client,
        destination,
        endpoint,
    })
}
