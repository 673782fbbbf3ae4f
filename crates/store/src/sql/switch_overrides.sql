WITH opened AS (
    SELECT generation, organization_id, subscription_id, bucket
    FROM catalog_overrides
    WHERE generation = $1 AND version_to IS NULL AND rolling
),
closed AS (
    UPDATE catalog_overrides c
    SET version_to = $2
    FROM opened o
    WHERE c.version_to IS NULL
      AND c.organization_id = o.organization_id
      AND c.subscription_id = o.subscription_id
      -- A whole subscription replaces its cells.
      AND (o.bucket IS NULL OR c.bucket = o.bucket)
)
INSERT INTO catalog_overrides
    (generation, organization_id, subscription_id, bucket, rolling, version_from)
SELECT generation, organization_id, subscription_id, bucket, false, $2
FROM opened
