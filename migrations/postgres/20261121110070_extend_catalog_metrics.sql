-- A metric whose counting changes is counted both ways until the new one has caught up.
ALTER TABLE catalog_metrics
    ADD COLUMN expression text,
    -- [{"key": "region", "values": ["eu", "us"]}, {"key": "model", "values": null}]; null: any.
    ADD COLUMN dimensions jsonb NOT NULL DEFAULT '[]',
    -- What its usage is written under.
    ADD COLUMN generation bigint NOT NULL DEFAULT 0 CHECK (generation >= 0),
    -- Written beside the generation in effect, and not read yet.
    ADD COLUMN rolling boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT catalog_metrics_pkey,
    ADD PRIMARY KEY (id, generation, version_from);

DROP INDEX catalog_metrics_open;
CREATE UNIQUE INDEX catalog_metrics_open ON catalog_metrics (id, generation)
    WHERE version_to IS NULL;
CREATE INDEX catalog_metrics_by_code ON catalog_metrics (organization_id, event_code);
CREATE INDEX catalog_subscriptions_by_external_id
    ON catalog_subscriptions (organization_id, external_id);

-- By which properties a metric's usage is told apart: those of its filters, with their values, and
-- those that charges group by, with any value.
CREATE FUNCTION metric_dimensions(filters jsonb, group_keys text[]) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT coalesce(
        jsonb_agg(jsonb_build_object('key', key, 'values', allowed) ORDER BY key),
        '[]'::jsonb
    )
    FROM (
        SELECT key, 'null'::jsonb AS allowed FROM unnest(group_keys) key
        UNION
        SELECT f ->> 'key', f -> 'values'
        FROM jsonb_array_elements(filters) f
        WHERE f ->> 'key' <> ALL (group_keys)
    ) dimensions
$$;
