-- Aggregators share the partitions evenly: each must know how many there are.
CREATE TABLE aggregators (
    owner text PRIMARY KEY CHECK (char_length(owner) BETWEEN 1 AND 255),
    -- Real time.
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
