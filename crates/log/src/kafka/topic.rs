//! The topic: made if it is not there, and refused if it is another one than wanted.

use super::{
    blocking,
    client::{Client, LogContext},
    unavailable,
};
use crate::LogError;
use rdkafka::{
    admin::{AdminOptions, NewTopic, TopicReplication},
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How often a new topic is looked for until every partition has a leader.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Makes sure of the topic. Errors: `PartitionCount`, `Unavailable`.
pub(super) async fn ensure(
    client: &Client,
    consumer: &Arc<BaseConsumer<LogContext>>,
) -> Result<(), LogError> {
    let deadline = Instant::now() + 2 * client.request_timeout();
    let mut created = false;
    loop {
        let (asking, asked) = (client.clone(), Arc::clone(consumer));
        match blocking(move || partitions_with_leader(&asking, &asked)).await {
            Ok(Some(found)) if found == client.partitions => return Ok(()),
            Ok(Some(found)) => {
                return Err(LogError::PartitionCount { found, wanted: client.partitions });
            }
            Ok(None) if !client.options.create_topic => {
                return Err(unavailable(RDKafkaErrorCode::UnknownTopic));
            }
            Ok(None) if !created => {
                create(client).await?;
                created = true;
            }
            Ok(None) if Instant::now() > deadline => {
                return Err(unavailable(RDKafkaErrorCode::UnknownTopic));
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            Ok(None) | Err(_) => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The topic's partitions, or `None` if there is no such topic. Blocks.
/// Errors: `Unavailable`, also when a partition has no leader at the moment.
pub(super) fn partitions_with_leader(
    client: &Client,
    consumer: &BaseConsumer<LogContext>,
) -> Result<Option<u32>, LogError> {
    let metadata = consumer
        .fetch_metadata(Some(&client.topic), client.request_timeout())
        .map_err(LogError::unavailable)?;
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == &*client.topic) else {
        return Ok(None);
    };
    match topic.error() {
        None => {}
        Some(
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
        ) => return Ok(None),
        Some(error) => return Err(unavailable(error.into())),
    }
    if topic.partitions().is_empty() {
        return Ok(None);
    }
    if topic.partitions().iter().any(|partition| partition.leader() < 0) {
        return Err(unavailable(RDKafkaErrorCode::LeaderNotAvailable));
    }
    Ok(u32::try_from(topic.partitions().len()).ok())
}

async fn create(client: &Client) -> Result<(), LogError> {
    let admin = client.admin()?;
    let partitions = i32::try_from(client.partitions).unwrap_or(i32::MAX);
    let replication = TopicReplication::Fixed(client.options.replication.map_or(-1, i32::from));
    let topic = NewTopic::new(&client.topic, partitions, replication)
        // Nothing is deleted by age or size: usage is billed from what is here.
        .set("retention.ms", "-1")
        .set("retention.bytes", "-1")
        .set("cleanup.policy", "delete")
        .set("compression.type", "producer");
    let options = AdminOptions::new()
        .request_timeout(Some(client.request_timeout()))
        .operation_timeout(Some(client.request_timeout()));
    let results = admin.create_topics([&topic], &options).await.map_err(LogError::unavailable)?;
    for result in results {
        match result {
            Ok(_) => tracing::info!(topic = &*client.topic, partitions, "topic created"),
            // Another process was quicker; its partitions are counted next.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(LogError::unavailable(KafkaError::AdminOp(code))),
        }
    }
    Ok(())
}
