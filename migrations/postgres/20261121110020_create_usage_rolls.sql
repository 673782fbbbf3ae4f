-- Usage is computed again from raw events when what counts has changed: each time under a new
-- generation, which readers take once all of it is there.
CREATE SEQUENCE usage_generations MINVALUE 1;

CREATE TABLE usage_rolls (
    -- Rises in the order in which the rolls of an organization take effect.
    generation bigint PRIMARY KEY DEFAULT nextval('usage_generations'),
    organization_id uuid NOT NULL REFERENCES organizations (id),
    -- What is computed again: all of a metric, of subscriptions, or cells of 15 minutes.
    kind text NOT NULL CHECK (kind IN ('metric', 'subscriptions', 'cells')),
    metric_id uuid,
    -- abandoned: the metric is gone; what was written of it is never read.
    state text NOT NULL CHECK (state IN ('waiting', 'rolling', 'done', 'abandoned')),
    -- The catalog version in which live chunks write the generation too.
    catalog_version bigint CHECK (catalog_version >= 0),
    -- Real time.
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    ended_at timestamptz,
    -- When what it replaced was deleted from ClickHouse.
    swept_at timestamptz,
    FOREIGN KEY (organization_id, metric_id) REFERENCES billable_metrics (organization_id, id),
    CONSTRAINT usage_rolls_metric_fits_kind CHECK ((kind = 'metric') = (metric_id IS NOT NULL)),
    CONSTRAINT usage_rolls_times_fit_state CHECK (
        (state = 'waiting') = (started_at IS NULL)
        AND (state = 'waiting') = (catalog_version IS NULL)
        AND (state IN ('done', 'abandoned')) = (ended_at IS NOT NULL)
    )
);

CREATE UNIQUE INDEX usage_rolls_one_rolling ON usage_rolls (organization_id)
    WHERE state = 'rolling';
CREATE UNIQUE INDEX usage_rolls_one_waiting ON usage_rolls (organization_id, metric_id)
    WHERE state = 'waiting' AND kind = 'metric';
CREATE INDEX usage_rolls_unsettled ON usage_rolls (organization_id)
    WHERE state IN ('waiting', 'rolling');
CREATE INDEX usage_rolls_by_organization ON usage_rolls (organization_id, generation);
CREATE INDEX usage_rolls_unswept ON usage_rolls (ended_at)
    WHERE state IN ('done', 'abandoned') AND swept_at IS NULL;

-- What a roll of subscriptions or cells computes again.
CREATE TABLE usage_roll_cells (
    generation bigint NOT NULL REFERENCES usage_rolls (generation),
    organization_id uuid NOT NULL,
    subscription_id uuid NOT NULL,
    -- The start of 15 minutes; none: all of the subscription.
    bucket timestamptz,
    CONSTRAINT usage_roll_cells_key UNIQUE NULLS NOT DISTINCT (generation, subscription_id, bucket)
);

CREATE INDEX usage_roll_cells_by_subscription
    ON usage_roll_cells (organization_id, subscription_id);

-- How far a roll is in each partition: its owner computes what is before `to_position`, and live
-- chunks write the generation from there on.
CREATE TABLE usage_roll_partitions (
    generation bigint NOT NULL REFERENCES usage_rolls (generation),
    organization_id uuid NOT NULL,
    partition integer NOT NULL REFERENCES log_partitions (partition),
    to_position bigint NOT NULL CHECK (to_position >= 0),
    -- Whose metrics and subscriptions the roll goes by in this partition.
    catalog_version bigint NOT NULL CHECK (catalog_version >= 0),
    done_to bigint NOT NULL DEFAULT 0,
    -- The end of the chunk that is being written, so that after a crash exactly it is written again.
    open_to bigint,
    -- Counted with the numbers of chunk_intents: how far an open chunk is behind.
    open_sequence bigint,
    PRIMARY KEY (generation, partition),
    CONSTRAINT usage_roll_partitions_forward CHECK (
        done_to BETWEEN 0 AND to_position
        AND open_to > done_to AND open_to <= to_position
        AND (open_to IS NULL) = (open_sequence IS NULL)
    )
);

CREATE INDEX usage_roll_partitions_open ON usage_roll_partitions (open_sequence)
    WHERE open_to IS NOT NULL;

ALTER TABLE log_partitions
    -- No chunk may be opened with an older catalog: it would miss a generation that it must write.
    ADD COLUMN catalog_floor bigint NOT NULL DEFAULT 0 CHECK (catalog_floor >= 0);

ALTER TABLE usage_rolls ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_roll_cells ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_roll_partitions ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON usage_rolls TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
CREATE POLICY tenant ON usage_roll_cells TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
CREATE POLICY tenant ON usage_roll_partitions TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
GRANT SELECT ON usage_rolls, usage_roll_cells, usage_roll_partitions TO weir_tenant;
-- How many there are.
GRANT SELECT (partition) ON log_partitions TO weir_tenant;
