-- Later copies of an id with other content: not billed, but listed.
CREATE TABLE IF NOT EXISTS conflicts (
    organization_id UUID,
    transaction_id String,
    event_id UUID,
    partition UInt16,
    position UInt64,
    first_position UInt64,
    received_at DateTime64(6, 'UTC')
)
ENGINE = MergeTree
ORDER BY (organization_id, received_at, event_id)
SETTINGS non_replicated_deduplication_window = 10000;
