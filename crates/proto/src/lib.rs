//! The API's messages and services, generated from `proto/`, and their descriptors.

/// Google's common types.
pub mod google {
    pub mod r#type {
        tonic::include_proto!("google.r#type");
    }
    pub mod api {
        tonic::include_proto!("google.api");
    }
}

/// Ours.
pub mod weir {
    pub mod billing {
        #[expect(clippy::allow_attributes, reason = "tonic silences lints where it generates code")]
        pub mod v2 {
            tonic::include_proto!("weir.billing.v2");
        }
    }
}

pub use google::r#type::{Date, Decimal};
pub use weir::billing::v2;

/// All `.proto` files, encoded as a `google.protobuf.FileDescriptorSet` with their options and
/// comments.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
