-- Raw events as they were received; the first copy of each id only. Everything else is derived from them.
-- The deduplication window is what makes a repeated chunk harmless: it holds far more chunks than a lease lasts.
CREATE TABLE IF NOT EXISTS events (
    organization_id UUID,
    -- All zero: no subscription was active at the event's time.
    subscription_id UUID,
    external_subscription_id String CODEC(ZSTD(1)),
    code LowCardinality(String),
    -- The event's id is a hash of organization and this, so it is not stored: 16 bytes that don't compress.
    transaction_id String CODEC(ZSTD(1)),
    timestamp DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    received_at DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    partition UInt16 CODEC(ZSTD(1)),
    position UInt64 CODEC(Delta(8), ZSTD(1)),
    -- Hashes don't compress.
    content_hash UInt64 CODEC(NONE),
    properties String CODEC(ZSTD(1)),
    INDEX by_transaction_id transaction_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_position (partition, position) TYPE minmax GRANULARITY 1,
    INDEX by_timestamp timestamp TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (organization_id, subscription_id, code, timestamp, position)
-- Parts of like size merge by twelves, not fives: a quarter less work for each event, and reads of raw events
-- are rare enough to visit some more parts.
SETTINGS non_replicated_deduplication_window = 10000, merge_selector_base = 12;
