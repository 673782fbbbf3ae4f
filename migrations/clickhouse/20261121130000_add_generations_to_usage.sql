-- Usage that is computed again lies beside the old under a higher generation, apart for each group of a
-- metric's dimensions; weighted sums need value × time; a late change is found by its time.
ALTER TABLE usage
    -- 0: as it came, without a roll.
    ADD COLUMN IF NOT EXISTS generation UInt64 CODEC(ZSTD(1)) AFTER bucket,
    -- Canonical JSON; empty: the metric has no dimensions, or the event none of them.
    ADD COLUMN IF NOT EXISTS `group` String CODEC(ZSTD(1)) AFTER generation,
    -- Σ value × seconds since the bucket's start. 0 in rows of before, when there were no weighted sums.
    ADD COLUMN IF NOT EXISTS value_seconds SimpleAggregateFunction(sum, Decimal(76, 18)),
    ADD COLUMN IF NOT EXISTS changed_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
    ADD INDEX IF NOT EXISTS by_changed_at changed_at TYPE minmax GRANULARITY 1,
    -- Only columns that the same statement adds may extend a sort key.
    MODIFY ORDER BY (organization_id, subscription_id, metric_id, bucket, generation, `group`);
