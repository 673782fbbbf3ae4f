//! Typed identifiers: a prefix that names the kind and 26 letters of Crockford base 32.
//!
//! An id is 128 bits whose first 48 are the milliseconds of its making, so ids sort by creation.
//! In Postgres it is a `uuid`, in ClickHouse a `UUID`, everywhere else the text form.
#![no_std]
#![deny(clippy::float_arithmetic, clippy::cast_possible_truncation, clippy::indexing_slicing)]
extern crate alloc;

use core::fmt;

/// Why a text is no id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text does not start with the kind's prefix.
    #[error("must start with \"{0}_\"")]
    Prefix(&'static str),
    /// The part after the prefix is not 26 letters of Crockford base 32.
    #[error("must be \"{0}_\" and 26 letters or digits")]
    Body(&'static str),
}

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

#[doc(hidden)]
pub fn write_base32(f: &mut fmt::Formatter<'_>, value: u128) -> fmt::Result {
    use fmt::Write;
    for place in (0..26).rev() {
        let digit = (value >> (place * 5)) & 31;
        f.write_char(ALPHABET.get(digit as usize).map_or('0', |letter| char::from(*letter)))?;
    }
    Ok(())
}

#[doc(hidden)]
pub fn parse_base32(text: &str) -> Option<u128> {
    if text.len() != 26 {
        return None;
    }
    let mut value: u128 = 0;
    for (place, byte) in text.bytes().enumerate() {
        let upper = byte.to_ascii_uppercase();
        let digit = ALPHABET.iter().position(|letter| *letter == upper)? as u128;
        if place == 0 && digit > 7 {
            return None;
        }
        value = (value << 5) | digit;
    }
    Some(value)
}

/// Declares an id type: `id!(CouponId, "cpn")`.
#[macro_export]
macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $prefix:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// What the text form starts with, before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// The id with these bits.
            #[must_use]
            pub const fn from_u128(bits: u128) -> Self {
                Self(bits)
            }

            /// The id's bits.
            #[must_use]
            pub const fn as_u128(self) -> u128 {
                self.0
            }

            /// Reads the text form. Errors: another prefix, a wrong length or letter.
            pub fn parse(text: &str) -> Result<Self, $crate::IdError> {
                let body = text
                    .strip_prefix($prefix)
                    .and_then(|rest| rest.strip_prefix('_'))
                    .ok_or($crate::IdError::Prefix($prefix))?;
                $crate::parse_base32(body).map(Self).ok_or($crate::IdError::Body($prefix))
            }
        }

        impl From<u128> for $name {
            fn from(bits: u128) -> Self {
                Self(bits)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(concat!($prefix, "_"))?;
                $crate::write_base32(f, self.0)
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(self, f)
            }
        }

        impl core::str::FromStr for $name {
            type Err = $crate::IdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl $crate::serde::Serialize for $name {
            fn serialize<S: $crate::serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> $crate::serde::Deserialize<'de> for $name {
            fn deserialize<D: $crate::serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <$crate::Text as $crate::serde::Deserialize>::deserialize(d)?;
                Self::parse(&text.0).map_err($crate::serde::de::Error::custom)
            }
        }

        $crate::postgres!($name);
    };
}

#[doc(hidden)]
pub use serde;
#[cfg(feature = "sqlx")]
#[doc(hidden)]
pub use {sqlx, uuid};

#[doc(hidden)]
#[derive(serde::Deserialize)]
pub struct Text(pub alloc::string::String);

#[cfg(not(feature = "sqlx"))]
#[doc(hidden)]
#[macro_export]
macro_rules! postgres {
    ($name:ident) => {};
}

/// The `uuid` column type of an id.
#[cfg(feature = "sqlx")]
#[doc(hidden)]
#[macro_export]
macro_rules! postgres {
    ($name:ident) => {
        impl $crate::sqlx::Type<$crate::sqlx::Postgres> for $name {
            fn type_info() -> <$crate::sqlx::Postgres as $crate::sqlx::Database>::TypeInfo {
                <$crate::uuid::Uuid as $crate::sqlx::Type<$crate::sqlx::Postgres>>::type_info()
            }
        }
        impl $crate::sqlx::postgres::PgHasArrayType for $name {
            fn array_type_info() -> $crate::sqlx::postgres::PgTypeInfo {
                <$crate::uuid::Uuid as $crate::sqlx::postgres::PgHasArrayType>::array_type_info()
            }
        }
        impl<'q> $crate::sqlx::Encode<'q, $crate::sqlx::Postgres> for $name {
            fn encode_by_ref(
                &self,
                buffer: &mut $crate::sqlx::postgres::PgArgumentBuffer,
            ) -> Result<$crate::sqlx::encode::IsNull, $crate::sqlx::error::BoxDynError> {
                $crate::uuid::Uuid::from_u128(self.0).encode_by_ref(buffer)
            }
        }
        impl<'r> $crate::sqlx::Decode<'r, $crate::sqlx::Postgres> for $name {
            fn decode(
                value: $crate::sqlx::postgres::PgValueRef<'r>,
            ) -> Result<Self, $crate::sqlx::error::BoxDynError> {
                let uuid =
                    <$crate::uuid::Uuid as $crate::sqlx::Decode<$crate::sqlx::Postgres>>::decode(
                        value,
                    )?;
                Ok(Self(uuid.as_u128()))
            }
        }
    };
}

id!(/// A tenant of the deployment.
    OrganizationId, "org");
id!(/// An API key; the secret itself is never an id.
    ApiKeyId, "key");
id!(/// What usage is counted by.
    BillableMetricId, "bm");
id!(/// A plan, over all its versions.
    PlanId, "plan");
id!(/// One version of a plan.
    PlanVersionId, "plv");
id!(/// A usage charge of a plan version; a changed plan keeps the ids of its charges.
    ChargeId, "chg");
id!(/// A filter of a charge; a changed plan keeps the ids of its filters.
    ChargeFilterId, "chf");
id!(/// A customer of an organization.
    CustomerId, "cus");
id!(/// A customer's subscription to a plan.
    SubscriptionId, "sub");
id!(/// An invoice.
    InvoiceId, "inv");
id!(/// A line of an invoice.
    FeeId, "fee");

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn text_form_round_trips_at_both_ends_of_the_range() {
        for bits in [0, 1, u128::MAX, 0x0190_0000_0000_7000_8000_0000_0000_0001] {
            let id = CustomerId::from_u128(bits);
            assert_eq!(CustomerId::parse(&id.to_string()), Ok(id));
        }
        assert_eq!(CustomerId::from_u128(0).to_string(), "cus_00000000000000000000000000");
    }

    #[test]
    fn lower_case_is_read_too() {
        let id = PlanId::from_u128(u128::MAX / 3);
        assert_eq!(PlanId::parse(&id.to_string().to_lowercase()), Ok(id));
    }

    #[test]
    fn other_prefixes_lengths_and_letters_are_refused() {
        let id = CustomerId::from_u128(7).to_string();
        assert_eq!(PlanId::parse(&id), Err(IdError::Prefix("plan")));
        assert_eq!(CustomerId::parse("cus_1"), Err(IdError::Body("cus")));
        assert_eq!(
            CustomerId::parse("cus_8ZZZZZZZZZZZZZZZZZZZZZZZZZ"),
            Err(IdError::Body("cus")),
            "more than 128 bits"
        );
        assert_eq!(CustomerId::parse("cus_0000000000000000000000000U"), Err(IdError::Body("cus")));
    }
}
