WITH taken AS (
    SELECT organization_id, transaction_id, external_subscription_id, timestamp
    FROM event_voids
    WHERE generation IS NULL
    -- Those of one call have one instant, and leave usage together.
    ORDER BY voided_at
    FETCH FIRST ($1) ROWS WITH TIES
),
cells AS (
    SELECT DISTINCT t.organization_id, s.id AS subscription_id,
        date_bin(interval '15 minutes', t.timestamp, timestamptz 'epoch') AS bucket
    FROM taken t
    -- All that the catalog ever said: the event was counted by what held when it came.
    JOIN catalog_subscriptions s
        ON s.organization_id = t.organization_id AND s.external_id = t.external_subscription_id
    WHERE s.started_at <= t.timestamp AND (s.ended_at IS NULL OR s.ended_at > t.timestamp)
),
newest AS (
    SELECT DISTINCT ON (organization_id) organization_id, generation, kind, state
    FROM usage_rolls
    WHERE organization_id IN (SELECT organization_id FROM taken)
    ORDER BY organization_id, generation DESC
),
-- Only the newest roll may take more up: a later one counts without what was voided before it.
joined AS (
    SELECT generation, organization_id FROM newest WHERE kind = 'cells' AND state = 'waiting'
),
made AS (
    INSERT INTO usage_rolls
        (organization_id, kind, state, catalog_version, started_at, ended_at, swept_at)
    SELECT o.organization_id, 'cells',
        CASE WHEN any_cell THEN 'waiting' ELSE 'done' END,
        CASE WHEN NOT any_cell THEN (SELECT version FROM catalog_version) END,
        CASE WHEN NOT any_cell THEN clock_timestamp() END,
        CASE WHEN NOT any_cell THEN clock_timestamp() END,
        CASE WHEN NOT any_cell THEN clock_timestamp() END
    FROM (
        SELECT DISTINCT organization_id,
            EXISTS (SELECT FROM cells c WHERE c.organization_id = t.organization_id) AS any_cell
        FROM taken t
    ) o
    WHERE NOT EXISTS (SELECT FROM joined j WHERE j.organization_id = o.organization_id)
    RETURNING generation, organization_id
),
rolls AS (
    SELECT generation, organization_id FROM joined
    UNION ALL
    SELECT generation, organization_id FROM made
),
listed AS (
    INSERT INTO usage_roll_cells (generation, organization_id, subscription_id, bucket)
    SELECT r.generation, c.organization_id, c.subscription_id, c.bucket
    FROM cells c
    JOIN rolls r ON r.organization_id = c.organization_id
    ON CONFLICT DO NOTHING
)
UPDATE event_voids v
SET generation = r.generation
FROM taken t
JOIN rolls r ON r.organization_id = t.organization_id
WHERE v.organization_id = t.organization_id AND v.transaction_id = t.transaction_id
