//! How values of the model are written into the two column types that are used: TEXT and BIGINT.

use serde::{Serialize, de::DeserializeOwned};
use towline_model::{
    AgentId, CredentialId, InstanceId, InstancePhase, InvitationId, KeyHash, KeyKind, PairingId, Role, Secret,
    SecretId, ServiceId, ServiceStatus, SessionId, SignInId, TeamId, Timestamp, UserId,
};
use uuid::Uuid;

use crate::StoreError;

/// A value on its way into the database. NULL has a type, since PostgreSQL wants to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Argument {
    Integer(Option<i64>),
    Text(Option<String>),
}

/// A value that came out of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Integer(i64),
    Text(String),
}

/// One row of a result.
#[derive(Debug)]
pub(crate) struct Row(pub(crate) Vec<(String, Value)>);

/// A row that is read as a whole.
pub(crate) trait FromRow: Sized {
    fn from_row(row: &mut Row) -> Result<Self, StoreError>;
}

impl Row {
    /// Takes the value of a column. Each column can be taken once.
    pub(crate) fn take<T: FromValue>(&mut self, column: &str) -> Result<T, StoreError> {
        let Some((_, value)) = self.0.iter_mut().find(|(name, _)| name == column) else {
            return Err(StoreError::Corrupt(format!("there is no column {column}")));
        };
        // The value is not shown: it may be a secret.
        T::from_value(std::mem::replace(value, Value::Null))
            .ok_or_else(|| StoreError::Corrupt(format!("the value of column {column} cannot be read")))
    }
}

/// Something that can be an argument of a statement.
pub(crate) trait ToArgument {
    /// NULL of this type.
    const NULL: Argument;

    fn to_argument(self) -> Argument;
}

/// Something that can be read from a column. `None` when the value does not fit.
pub(crate) trait FromValue: Sized {
    fn from_value(value: Value) -> Option<Self>;
}

impl<T: ToArgument> ToArgument for Option<T> {
    const NULL: Argument = T::NULL;

    fn to_argument(self) -> Argument {
        self.map_or(T::NULL, T::to_argument)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Option<Self> {
        if value == Value::Null { Some(None) } else { T::from_value(value).map(Some) }
    }
}

impl ToArgument for i64 {
    const NULL: Argument = Argument::Integer(None);

    fn to_argument(self) -> Argument {
        Argument::Integer(Some(self))
    }
}

impl FromValue for i64 {
    fn from_value(value: Value) -> Option<Self> {
        if let Value::Integer(number) = value { Some(number) } else { None }
    }
}

impl ToArgument for String {
    const NULL: Argument = Argument::Text(None);

    fn to_argument(self) -> Argument {
        let text = if self.contains('\0') { self.replace('\0', "\u{FFFD}") } else { self };
        Argument::Text(Some(text))
    }
}

impl ToArgument for &str {
    const NULL: Argument = Argument::Text(None);

    fn to_argument(self) -> Argument {
        self.to_owned().to_argument()
    }
}

impl ToArgument for &String {
    const NULL: Argument = Argument::Text(None);

    fn to_argument(self) -> Argument {
        self.clone().to_argument()
    }
}

impl FromValue for String {
    fn from_value(value: Value) -> Option<Self> {
        if let Value::Text(text) = value { Some(text) } else { None }
    }
}

/// Types that are stored as a number.
macro_rules! stored_as_integer {
    ($($type:ty: $to:expr, $from:expr;)*) => {$(
        impl ToArgument for $type {
            const NULL: Argument = Argument::Integer(None);

            fn to_argument(self) -> Argument {
                let to: fn($type) -> i64 = $to;
                Argument::Integer(Some(to(self)))
            }
        }

        impl FromValue for $type {
            fn from_value(value: Value) -> Option<Self> {
                let from: fn(i64) -> Option<$type> = $from;
                i64::from_value(value).and_then(from)
            }
        }
    )*};
}

stored_as_integer! {
    i32: i64::from, |number| i32::try_from(number).ok();
    bool: i64::from, |number| match number { 0 => Some(false), 1 => Some(true), _ => None };
    Timestamp: Timestamp::as_micros, |number| Some(Timestamp::from_micros(number));
}

/// Types that are stored as a text.
macro_rules! stored_as_text {
    ($($type:ty: $to:expr, $from:expr;)*) => {$(
        impl ToArgument for $type {
            const NULL: Argument = Argument::Text(None);

            fn to_argument(self) -> Argument {
                let to: fn($type) -> String = $to;
                Argument::Text(Some(to(self)))
            }
        }

        impl FromValue for $type {
            fn from_value(value: Value) -> Option<Self> {
                let from: fn(&str) -> Option<$type> = $from;
                String::from_value(value).as_deref().and_then(from)
            }
        }
    )*};
}

stored_as_text! {
    Uuid: |id| id.to_string(), |text| text.parse().ok();
    TeamId: |id| id.to_string(), |text| text.parse().ok();
    UserId: |id| id.to_string(), |text| text.parse().ok();
    ServiceId: |id| id.to_string(), |text| text.parse().ok();
    InstanceId: |id| id.to_string(), |text| text.parse().ok();
    AgentId: |id| id.to_string(), |text| text.parse().ok();
    CredentialId: |id| id.to_string(), |text| text.parse().ok();
    SecretId: |id| id.to_string(), |text| text.parse().ok();
    PairingId: |id| id.to_string(), |text| text.parse().ok();
    SessionId: |id| id.to_string(), |text| text.parse().ok();
    SignInId: |id| id.to_string(), |text| text.parse().ok();
    InvitationId: |id| id.to_string(), |text| text.parse().ok();
    Role: |role| role.as_str().to_owned(), Role::from_name;
    KeyKind: |kind| kind.as_str().to_owned(), |text| KeyKind::ALL.into_iter().find(|kind| kind.as_str() == text);
    ServiceStatus: |status| status.as_str().to_owned(), ServiceStatus::from_name;
    InstancePhase: |phase| phase.as_str().to_owned(), InstancePhase::from_name;
    [u8; 32]: |hash| to_hex(&hash), from_hex;
    KeyHash: |hash| to_hex(hash.as_bytes()), |text| from_hex(text).map(KeyHash::from_bytes);
}

impl ToArgument for &Secret<String> {
    const NULL: Argument = Argument::Text(None);

    fn to_argument(self) -> Argument {
        self.expose().to_argument()
    }
}

impl FromValue for Secret<String> {
    fn from_value(value: Value) -> Option<Self> {
        String::from_value(value).map(Self::new)
    }
}

/// A document that is stored as JSON.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> ToArgument for Json<&T> {
    const NULL: Argument = Argument::Text(None);

    fn to_argument(self) -> Argument {
        serde_json::to_string(self.0).expect("documents have string keys and no failing serialisers").to_argument()
    }
}

impl<T: DeserializeOwned> FromValue for Json<T> {
    fn from_value(value: Value) -> Option<Self> {
        String::from_value(value).and_then(|text| serde_json::from_str(&text).ok()).map(Json)
    }
}

fn to_hex(bytes: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut bytes = [0; 32];
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_round_trip_and_wrong_texts_are_refused() {
        let mut bytes = [0; 32];
        for (index, byte) in (0..).zip(bytes.iter_mut()) {
            *byte = index * 7;
        }
        assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        assert_eq!(from_hex(&"0".repeat(63)), None);
        assert_eq!(from_hex(&"0".repeat(65)), None);
        assert_eq!(from_hex(&"g".repeat(64)), None);
        assert_eq!(from_hex(&"é".repeat(32)), None);
    }

    #[test]
    fn null_keeps_its_type_and_nul_is_replaced() {
        assert_eq!(None::<Timestamp>.to_argument(), Argument::Integer(None));
        assert_eq!(None::<TeamId>.to_argument(), Argument::Text(None));
        assert_eq!("a\0b".to_argument(), Argument::Text(Some("a\u{FFFD}b".to_owned())));
    }

    #[test]
    fn a_value_that_does_not_fit_is_told_by_its_column_only() {
        let mut row = Row(vec![("role".to_owned(), Value::Text("hunter2".to_owned()))]);
        let error = row.take::<Role>("role").unwrap_err().to_string();
        assert!(error.contains("role") && !error.contains("hunter2"), "{error}");
        assert!(row.take::<Role>("missing").is_err());
        assert_eq!(bool::from_value(Value::Integer(2)), None);
        assert_eq!(Option::<i64>::from_value(Value::Null), Some(None));
    }
}
