-- How far each partition of the event log is in ClickHouse, and who may take it further.
CREATE TABLE log_partitions (
    partition integer PRIMARY KEY CHECK (partition BETWEEN 0 AND 65535),
    owner text CHECK (char_length(owner) BETWEEN 1 AND 255),
    -- Rises with each claim; what an older epoch does is refused.
    epoch bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    lease_until timestamptz,
    -- Everything before this position is in ClickHouse.
    committed bigint NOT NULL DEFAULT 0 CHECK (committed >= 0),
    -- Everything answered `accepted` before this instant (real time) is in ClickHouse.
    watermark timestamptz,
    CHECK ((owner IS NULL) = (lease_until IS NULL))
);

-- What is about to be written, so that after a crash exactly that is written again.
CREATE TABLE chunk_intents (
    partition integer NOT NULL REFERENCES log_partitions (partition),
    from_position bigint NOT NULL CHECK (from_position >= 0),
    to_position bigint NOT NULL,
    catalog_version bigint NOT NULL CHECK (catalog_version >= 0),
    epoch bigint NOT NULL CHECK (epoch >= 1),
    state text NOT NULL CHECK (state IN ('open', 'done')),
    events bigint CHECK (events >= 0),
    duplicates bigint CHECK (duplicates >= 0),
    conflicts bigint CHECK (conflicts >= 0),
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at timestamptz,
    PRIMARY KEY (partition, from_position),
    CONSTRAINT chunk_intents_forward CHECK (to_position > from_position),
    CONSTRAINT chunk_intents_counts_when_done CHECK (
        (state = 'done') = (events IS NOT NULL)
        AND (state = 'done') = (duplicates IS NOT NULL)
        AND (state = 'done') = (conflicts IS NOT NULL)
        AND (state = 'done') = (done_at IS NOT NULL)
    )
);

CREATE UNIQUE INDEX chunk_intents_one_open ON chunk_intents (partition) WHERE state = 'open';
CREATE INDEX chunk_intents_by_end ON chunk_intents (done_at) WHERE state = 'done';
