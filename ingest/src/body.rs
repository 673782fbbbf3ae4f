//! From a request's bytes on the wire to the plain text of its body, with a bound at each step.

use crate::config::Config;
use crate::limits::{Full, Place};
use crate::refusal::Refusal;
use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, header};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// What the headers say. Errors: an encoding that is not supported, or several.
    pub fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut given = headers.get_all(header::CONTENT_ENCODING).iter();
        let (Some(first), rest) = (given.next(), given.next()) else {
            return Ok(Self::Identity);
        };
        let text = String::from_utf8_lossy(first.as_bytes());
        match text.trim().to_ascii_lowercase().as_str() {
            _ if rest.is_some() => {}
            "" | "identity" => return Ok(Self::Identity),
            "gzip" | "x-gzip" => return Ok(Self::Gzip),
            "zstd" => return Ok(Self::Zstd),
            _ => {}
        }
        Err(Refusal::UnknownEncoding { encoding: text.into_owned() })
    }
}

/// zstd's window is memory that the sender asks for: 8 MiB holds any body that is taken.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Reads and decompresses a body; `place` holds its bytes until it is dropped.
///
/// Errors: too large, too slow, broken off, not what its encoding says, no room.
pub async fn read(
    body: Body,
    encoding: Encoding,
    place: &mut Place,
    config: &Config,
) -> Result<Bytes, Refusal> {
    let full = |_: Full| Refusal::Overloaded { retry_after_s: config.load.retry_after_s };
    let arrived = tokio::time::timeout(config.read_timeout(), receive(body, place, config)).await;
    let raw = match arrived {
        Ok(raw) => raw?,
        Err(_) => return Err(Refusal::TooSlow { timeout_ms: config.body.read_timeout_ms }),
    };
    let max = config.body.bytes_max;
    let (name, plain) = match encoding {
        Encoding::Identity => return Ok(raw),
        Encoding::Gzip => {
            let mut decoder = GzipDecoder::new(&raw[..]);
            decoder.multiple_members(true);
            ("gzip", inflate(decoder, raw.len(), max, place).await)
        }
        Encoding::Zstd => {
            let window = [DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX)];
            let mut decoder = ZstdDecoder::with_params(&raw[..], &window);
            decoder.multiple_members(true);
            ("zstd", inflate(decoder, raw.len(), max, place).await)
        }
    };
    let plain = plain.map_err(|failure| match failure {
        NotInflated::Broken => Refusal::BadCompression { encoding: name },
        NotInflated::TooLarge => Refusal::TooManyBytes { max },
        NotInflated::NoRoom(none) => full(none),
    })?;
    drop(raw);
    place.shrink_to(plain.capacity());
    Ok(plain.into())
}

async fn receive(body: Body, place: &mut Place, config: &Config) -> Result<Bytes, Refusal> {
    let max = config.body.bytes_max;
    let full = |_: Full| Refusal::Overloaded { retry_after_s: config.load.retry_after_s };
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > max {
        return Err(Refusal::TooManyBytes { max });
    }
    let mut chunks = body.into_data_stream();
    // Most bodies are one chunk, and stay where the connection put them.
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Refusal::BodyBroken)?;
        let length = first.len() + joined.len() + chunk.len();
        if length > max {
            return Err(Refusal::TooManyBytes { max });
        }
        place.grow_to(length).map_err(full)?;
        if first.is_empty() && joined.is_empty() {
            first = chunk;
            continue;
        }
        if joined.is_empty() {
            // Reserve what has been promised only as far as it is already half there.
            joined.reserve(announced.min(2 * length).max(length));
            joined.extend_from_slice(&first);
            first = Bytes::new();
        }
        joined.extend_from_slice(&chunk);
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

/// Why a body is not there in plain.
enum NotInflated {
    Broken,
    TooLarge,
    NoRoom(Full),
}

/// JSON of events is compressed to a sixth and less: what is made room for at first, and how much of
/// it at least.
const PLAIN_TIMES: usize = 6;
const PLAIN_BYTES_MIN: usize = 4 << 10;

/// Decompresses at most `max` bytes. Room is taken as it is needed, beside the `packed` bytes: what a
/// body could become at the worst would leave room for few.
async fn inflate(
    mut decoder: impl AsyncRead + Unpin,
    packed: usize,
    max: usize,
    place: &mut Place,
) -> Result<Vec<u8>, NotInflated> {
    let mut plain = Vec::new();
    loop {
        if plain.len() == plain.capacity() {
            // One byte more than is taken tells that there is more.
            let wanted = (2 * plain.len()).max(PLAIN_TIMES * packed).max(PLAIN_BYTES_MIN);
            let wanted = wanted.min(max + 1);
            if plain.len() >= wanted {
                return Err(NotInflated::TooLarge);
            }
            place.grow_to(packed + wanted).map_err(NotInflated::NoRoom)?;
            plain.reserve_exact(wanted - plain.len());
        }
        let read = decoder.read_buf(&mut plain).await.map_err(|_| NotInflated::Broken)?;
        if plain.len() > max {
            return Err(NotInflated::TooLarge);
        }
        if read == 0 {
            return Ok(plain);
        }
    }
}
