//! Which fields an update changes.

use crate::{
    descriptors,
    error::{OpError, Violation},
};
use prost::{Message, Name};
use prost_reflect::DynamicMessage;
use std::collections::BTreeSet;

/// The fields that an update names, by their proto names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask(BTreeSet<String>);

impl Mask {
    /// The mask of an update; without one the fields that are set, as proto3 sees it.
    /// Errors: a path that is no field of the request.
    pub fn of<T: Message + Name>(
        request: &T,
        mask: Option<&prost_types::FieldMask>,
    ) -> Result<Self, OpError> {
        let descriptor = descriptors::pool().get_message_by_name(&T::full_name());
        let descriptor = descriptor.ok_or_else(|| OpError::internal(T::full_name()))?;
        if let Some(mask) = mask {
            let name = descriptors::mask_field(&descriptor);
            let name = name.map_or_else(String::new, |field| field.json_name().to_owned());
            let unknown = |path: &&String| descriptor.get_field_by_name(path).is_none();
            let unknown: Vec<Violation> = mask
                .paths
                .iter()
                .filter(unknown)
                .map(|path| Violation::new(&*name, format!("no field {path:?} to update")))
                .collect();
            if !unknown.is_empty() {
                return Err(OpError::Invalid(unknown));
            }
            return Ok(Self(mask.paths.iter().cloned().collect()));
        }
        let message = DynamicMessage::decode(descriptor, request.encode_to_vec().as_slice())
            .map_err(OpError::internal)?;
        Ok(Self(message.fields().map(|(field, _)| field.name().to_owned()).collect()))
    }

    /// Whether the update changes this field.
    #[must_use]
    pub fn names(&self, field: &str) -> bool {
        self.0.contains(field)
    }

    /// Writes `value` into `slot` when the update names `field`.
    pub fn set<T>(&self, field: &str, slot: &mut T, value: T) {
        if self.names(field) {
            *slot = value;
        }
    }
}
