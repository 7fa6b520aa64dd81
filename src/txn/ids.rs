//! Identifiers, each its own type, each checked once where it enters.
//!
//! Text ids are 1 to [`TEXT_ID_BYTES_MAX`] bytes without control characters and cheap to clone.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest text id in bytes: fits an XA branch qualifier and an index key comfortably.
pub const TEXT_ID_BYTES_MAX: usize = 128;

/// A text that cannot be an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("{what} is empty")]
    Empty {
        /// Which id was read.
        what: &'static str,
    },
    /// The text is longer than [`TEXT_ID_BYTES_MAX`].
    #[error("{what} has {bytes} bytes, at most {TEXT_ID_BYTES_MAX} are allowed")]
    TooLong {
        /// Which id was read.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The text holds a control character.
    #[error("{what} {text:?} holds a control character")]
    Control {
        /// Which id was read.
        what: &'static str,
        /// The text, escaped when shown.
        text: String,
    },
    /// The text is not of the form that this id has.
    #[error("{what} {text:?} is malformed")]
    Malformed {
        /// Which id was read.
        what: &'static str,
        /// The text.
        text: String,
    },
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                // Most are copies of one, whose text need not be looked at.
                Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, hasher: &mut H) {
                self.0.hash(hasher);
            }
        }

        impl $name {
            /// Checks the text: 1 to 128 bytes, no control characters.
            pub fn new(text: &str) -> Result<Self, IdError> {
                check_text($what, text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(&text)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<&$name> for super::Text {
            fn from(id: &$name) -> Self {
                id.0.clone().into()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

text_id!(
    /// A transaction's id, given by the client or made by the server; also its idempotency key.
    TxnId, "transaction id"
);
text_id!(
    /// The paying customer.
    CustomerId, "customer id"
);
text_id!(
    /// Who is paid.
    CounterpartyId, "counterparty id"
);
text_id!(
    /// The configured name of a participant.
    ParticipantName, "participant name"
);
text_id!(
    /// The configured name of an operation at a participant.
    OperationName, "operation name"
);

fn check_text(what: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { what });
    }
    if text.len() > TEXT_ID_BYTES_MAX {
        return Err(IdError::TooLong { what, bytes: text.len() });
    }
    if text.chars().any(char::is_control) {
        return Err(IdError::Control { what, text: text.to_owned() });
    }
    Ok(())
}

impl TxnId {
    /// An id for a client that gave none: a random 128-bit value, time-ordered when version 7.
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(Arc::from(uuid.simple().to_string()))
    }
}

/// The random identity of a decision log, made with its store. It tells our prepared branches
/// from those of any other coordinator, also of one whose folder was lost or restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogId(pub Uuid);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.simple())
    }
}

/// How often this log's coordinator has started; a participant refuses an older one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// One physical execution of a transaction; a retry is a new one. Unique within an epoch.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PhysicalId(pub u64);

/// The position of a branch among its transaction's participants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BranchIndex(pub u16);

/// The global id of a branch: `presume:<log id>:<epoch>:<physical id>:<branch>`.
///
/// At most 104 bytes as text, below the 199 that `PostgreSQL` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Gid {
    /// Whose decision log decides it.
    pub log: LogId,
    /// The epoch in which it was started.
    pub epoch: Epoch,
    /// The physical execution.
    pub physical: PhysicalId,
    /// The branch within it.
    pub branch: BranchIndex,
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "presume:{}:{}:{}:{}", self.log, self.epoch.0, self.physical.0, self.branch.0)
    }
}

impl From<Gid> for String {
    fn from(gid: Gid) -> Self {
        gid.to_string()
    }
}

impl TryFrom<String> for Gid {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl FromStr for Gid {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let malformed = || IdError::Malformed { what: "gid", text: text.to_owned() };
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or_else(malformed);
        if next()? != "presume" {
            return Err(malformed());
        }
        let log = LogId(Uuid::try_parse(next()?).map_err(|_| malformed())?);
        let epoch = Epoch(next()?.parse().map_err(|_| malformed())?);
        let physical = PhysicalId(next()?.parse().map_err(|_| malformed())?);
        let branch = BranchIndex(next()?.parse().map_err(|_| malformed())?);
        if parts.next().is_some() {
            return Err(malformed());
        }
        Ok(Self { log, epoch, physical, branch })
    }
}
