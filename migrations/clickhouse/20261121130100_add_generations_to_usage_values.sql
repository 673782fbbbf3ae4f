-- Distinct values by generation and group, as usage.
ALTER TABLE usage_values
    ADD COLUMN IF NOT EXISTS generation UInt64 CODEC(ZSTD(1)) AFTER value,
    ADD COLUMN IF NOT EXISTS `group` String CODEC(ZSTD(1)) AFTER generation,
    MODIFY ORDER BY (organization_id, subscription_id, metric_id, bucket, value, generation, `group`);
