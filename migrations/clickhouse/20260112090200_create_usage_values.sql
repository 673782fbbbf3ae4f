-- The distinct values of unique counts, each with its last operation in the quarter of an hour.
CREATE TABLE IF NOT EXISTS usage_values (
    organization_id UUID,
    subscription_id UUID,
    metric_id UUID,
    bucket DateTime('UTC'),
    value String,
    last SimpleAggregateFunction(max, Tuple(
        timestamp DateTime64(6, 'UTC'),
        received_at DateTime64(6, 'UTC'),
        position UInt64,
        added UInt8))
)
ENGINE = AggregatingMergeTree
ORDER BY (organization_id, subscription_id, metric_id, bucket, value)
SETTINGS non_replicated_deduplication_window = 10000;
