//! What a client asks for: a payment's facts and the operations that carry it out.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    ByName, CounterpartyId, CustomerId, Money, OperationName, ParticipantName, Timestamp, TxnId,
};

/// A value outside what a field takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} is not {expected}")]
pub struct ValueError {
    /// Which field was read.
    pub field: &'static str,
    /// What was read.
    pub value: String,
    /// What would have been right.
    pub expected: String,
}

impl ValueError {
    /// A text that names none of the values that a field knows.
    pub fn unknown(field: &'static str, value: &str, expected: &str) -> Self {
        Self { field, value: value.to_owned(), expected: expected.to_owned() }
    }
}

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident, $field:literal,
     { $($(#[$vdoc:meta])* $variant:ident => $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord,
            serde::Serialize, serde::Deserialize,
        )]
        #[serde(try_from = "String", into = "String")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The text form, as in histories and requests.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::txn::ValueError;
            fn from_str(text: &str) -> Result<Self, $crate::txn::ValueError> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::txn::ValueError::unknown(
                        $field, text, concat!("one of", $(" ", $text),+),
                    )),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::txn::ValueError;
            fn try_from(text: String) -> Result<Self, $crate::txn::ValueError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.as_str().to_owned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use text_enum;

text_enum!(
    /// The kind of payment.
    Kind, "kind", {
        /// Unified Payments Interface.
        Upi => "UPI",
        /// Immediate Payment Service.
        Imps => "IMPS",
        /// National Electronic Funds Transfer.
        Neft => "NEFT",
        /// Real Time Gross Settlement.
        Rtgs => "RTGS",
        /// Between accounts of one bank.
        Internal => "INTERNAL",
        /// Paying out a loan.
        LoanDisbursement => "LOAN_DISBURSEMENT",
        /// Updating a portfolio.
        PortfolioUpdate => "PORTFOLIO_UPDATE",
    }
);

text_enum!(
    /// The customer's segment.
    CustomerType, "customer type", {
        /// A private customer.
        Retail => "RETAIL",
        /// A private customer of long standing.
        Regular => "REGULAR",
        /// A private customer with a premium account.
        Premium => "PREMIUM",
        /// A company.
        Corporate => "CORPORATE",
    }
);

text_enum!(
    /// Which protocol the client asks for.
    ProtocolRequest, "protocol", {
        /// Whatever policy chooses.
        Auto => "auto",
        /// Two-phase commit.
        TwoPhase => "2pc",
    }
);

/// Who pays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Customer {
    /// The customer's id.
    pub id: CustomerId,
    /// The segment.
    #[serde(rename = "type")]
    pub customer_type: CustomerType,
    /// When the account was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// A place on earth in degrees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// Latitude, −90 to 90.
    pub lat: f64,
    /// Longitude, −180 to 180.
    pub lon: f64,
}

impl Location {
    /// Checks both coordinates: finite and in range.
    pub fn new(lat: f64, lon: f64) -> Result<Self, ValueError> {
        let in_range = |x: f64, max: f64| x.is_finite() && x.abs() <= max;
        if !in_range(lat, 90.0) {
            return Err(ValueError::unknown("lat", &lat.to_string(), "between -90 and 90"));
        }
        if !in_range(lon, 180.0) {
            return Err(ValueError::unknown("lon", &lon.to_string(), "between -180 and 180"));
        }
        Ok(Self { lat, lon })
    }
}

/// What is known of a payment before it is tried: all that features may look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Payment {
    /// The kind.
    pub kind: Kind,
    /// Who pays.
    pub customer: Customer,
    /// Who is paid, if named.
    pub counterparty: Option<CounterpartyId>,
    /// How much.
    pub amount: Money,
    /// Whether it crosses a border.
    pub cross_border: bool,
    /// Whether all participants must agree at once.
    pub requires_consistency: bool,
    /// Where it was started.
    pub location: Option<Location>,
    /// 1 for the first try of this payment, 2 for its first retry.
    pub attempt: u32,
    /// Load of the system when it was started, 0 to 1 and above when overloaded.
    pub system_load_ratio: Option<f64>,
    /// The participants that it needs, each once, in branch order.
    pub participants: Vec<ParticipantName>,
}

impl Payment {
    /// One of which no more is known: to nobody named, within the country, tried for the first time
    /// by participants that its operations are to tell.
    pub fn new(kind: Kind, customer: Customer, amount: Money) -> Self {
        Self {
            kind,
            customer,
            counterparty: None,
            amount,
            cross_border: false,
            requires_consistency: true,
            location: None,
            attempt: 1,
            system_load_ratio: None,
            participants: Vec::new(),
        }
    }
}

/// Parameters of an operation, by name. Typed when bound, never spliced into a statement.
pub type Params = ByName<serde_json::Value>;

/// One named operation at one participant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Where it happens.
    pub participant: ParticipantName,
    /// What happens there, by its configured name.
    pub operation: OperationName,
    /// With which parameters.
    #[serde(default)]
    pub params: Params,
}

/// A checked request: a payment and its operations under one id.
#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// The id, which is also the idempotency key.
    pub id: TxnId,
    /// What is known of it.
    pub payment: Payment,
    /// Which protocol the client asks for.
    pub protocol: ProtocolRequest,
    /// What to do, at least one.
    pub operations: Vec<Operation>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.lat, self.lon)
    }
}
