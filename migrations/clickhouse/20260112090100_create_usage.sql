-- What each subscription used of each metric, by quarters of an hour: every time zone's midnight falls on one.
-- Rows are partial states; reads aggregate them and never depend on merges having happened.
CREATE TABLE IF NOT EXISTS usage (
    organization_id UUID,
    subscription_id UUID,
    metric_id UUID,
    bucket DateTime('UTC'),
    events SimpleAggregateFunction(sum, UInt64),
    -- 76 digits, so that a sum beyond the 38 that we bill is seen and not wrapped.
    total SimpleAggregateFunction(sum, Decimal(76, 12)),
    greatest SimpleAggregateFunction(max, Decimal(38, 12)),
    latest SimpleAggregateFunction(max, Tuple(
        timestamp DateTime64(6, 'UTC'),
        received_at DateTime64(6, 'UTC'),
        position UInt64,
        value Decimal(38, 12)))
)
ENGINE = AggregatingMergeTree
ORDER BY (organization_id, subscription_id, metric_id, bucket)
SETTINGS non_replicated_deduplication_window = 10000;
