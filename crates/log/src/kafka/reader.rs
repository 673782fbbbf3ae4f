//! The reader of one partition: a consumer that is told its offset and belongs to no group.

use super::client::{Client, LogContext};
use crate::{LogError, Stored};
use bytes::Bytes;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use std::time::{Duration, Instant};

pub(super) struct Reader {
    partition: u32,
    consumer: Option<BaseConsumer<LogContext>>,
    /// The offset from which the consumer goes on by itself.
    next: Option<u64>,
    /// librdkafka said that it has no broker; it says so once, and maybe long ago.
    maybe_down: bool,
}

impl Reader {
    pub fn new(partition: u32) -> Self {
        Self { partition, consumer: None, next: None, maybe_down: false }
    }

    /// As `EventLog::read`. Blocks for `wait` at most, and for a request more
    /// where nothing came because the brokers may be down.
    pub fn read(
        &mut self,
        client: &Client,
        from: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Stored>, LogError> {
        let deadline = Instant::now() + wait;
        let consumer = match self.consumer.take() {
            Some(consumer) => self.consumer.insert(consumer),
            None => self.consumer.insert(client.consumer()?),
        };
        if self.next != Some(from) {
            assign(consumer, client, self.partition, from)?;
        }
        // Until it is known how this ends.
        self.next = None;
        let (mut out, mut bytes, mut next) = (Vec::new(), 0, from);
        while bytes < max_bytes.max(1) {
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = if out.is_empty() { left } else { Duration::ZERO };
            match consumer.poll(patience) {
                Some(Ok(message)) => {
                    let offset = u64::try_from(message.offset()).map_err(LogError::unavailable)?;
                    // A fetch from before an assignment may still come.
                    if offset < next {
                        continue;
                    }
                    next = offset + 1;
                    self.maybe_down = false;
                    let record = Bytes::copy_from_slice(message.payload().unwrap_or_default());
                    bytes += record.len().max(1);
                    out.push(Stored { offset, bytes: record });
                }
                Some(Err(error)) if is_out_of_range(&error) => {
                    let bounds = client.watermarks(consumer, self.partition)?;
                    return Err(out_of_range(self.partition, from, bounds, error));
                }
                // librdkafka goes on trying, so a record may still come.
                Some(Err(error)) if is_connection(&error) => self.maybe_down = true,
                Some(Err(error)) if out.is_empty() => return Err(LogError::unavailable(error)),
                Some(Err(_)) => break,
                None if out.is_empty() && !left.is_zero() => {}
                None => break,
            }
        }
        if out.is_empty() && self.maybe_down {
            client.watermarks(consumer, self.partition)?;
            self.maybe_down = false;
        }
        self.next = Some(next);
        Ok(out)
    }
}

fn assign(
    consumer: &BaseConsumer<LogContext>,
    client: &Client,
    partition: u32,
    from: u64,
) -> Result<(), LogError> {
    let number = i32::try_from(partition).unwrap_or(i32::MAX);
    let offset = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(&client.topic, number, offset)
        .and_then(|()| consumer.assign(&assignment))
        .map_err(LogError::unavailable)
}

fn is_out_of_range(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
    )
}

fn is_connection(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
        )
    )
}

fn out_of_range(partition: u32, from: u64, bounds: (u64, u64), error: KafkaError) -> LogError {
    let (start, end) = bounds;
    if from < start {
        LogError::BelowStart { partition, from, start }
    } else if from > end {
        LogError::BeyondEnd { partition, from, end }
    } else {
        LogError::unavailable(error)
    }
}
