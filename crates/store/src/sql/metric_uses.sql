WITH wanted AS (
    SELECT unnest($2::uuid[]) AS id
),
used AS (
    SELECT DISTINCT c.metric_id, v.id AS version_id, v.plan_id
    FROM charges c
    JOIN plan_versions v ON v.organization_id = c.organization_id AND v.id = c.plan_version_id
    WHERE c.organization_id = $1 AND c.metric_id = ANY($2::uuid[])
),
subscribed AS (
    SELECT used.metric_id,
           bool_or(s.started_at <= $3 AND (s.ended_at IS NULL OR s.ended_at > $3)) AS active
    FROM used
    JOIN subscription_plan_versions e
        ON e.organization_id = $1 AND e.plan_version_id = used.version_id
    JOIN subscriptions s ON s.organization_id = $1 AND s.id = e.subscription_id
    GROUP BY used.metric_id
)
SELECT wanted.id AS "id!",
       EXISTS (
           SELECT FROM used
           JOIN plans p ON p.organization_id = $1 AND p.id = used.plan_id
           WHERE used.metric_id = wanted.id AND p.deleted_at IS NULL
       ) AS "plans!",
       subscribed.metric_id IS NOT NULL AS "subscriptions!",
       coalesce(subscribed.active, false) AS "active_subscriptions!",
       EXISTS (
           SELECT FROM fees f
           JOIN invoices i ON i.organization_id = f.organization_id AND i.id = f.invoice_id
           WHERE f.organization_id = $1 AND f.metric_id = wanted.id AND i.status = 'draft'
       ) AS "draft_invoices!"
FROM wanted
LEFT JOIN subscribed ON subscribed.metric_id = wanted.id
