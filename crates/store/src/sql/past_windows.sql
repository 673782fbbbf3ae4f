WITH changed AS (
    SELECT c.organization_id, c.subscription_id, c.metric_id, s.invoice_id
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[])
        AS c (organization_id, subscription_id, metric_id, bucket)
    JOIN billable_metrics m ON m.organization_id = c.organization_id AND m.id = c.metric_id
    JOIN invoice_subscriptions s
        ON s.organization_id = c.organization_id AND s.subscription_id = c.subscription_id
        AND s.usage_end > c.bucket
        AND (m.recurring OR s.usage_start < c.bucket + interval '15 minutes')
    UNION
    SELECT p.organization_id, p.subscription_id, p.metric_id, s.invoice_id
    FROM pending_true_ups p
    JOIN invoice_subscriptions s
        ON s.organization_id = p.organization_id AND s.subscription_id = p.subscription_id
        AND s.usage_start = p.period_start
    WHERE (p.organization_id, p.subscription_id) IN (SELECT * FROM unnest($5::uuid[], $6::uuid[]))
)
SELECT c.organization_id AS "organization_id!", c.subscription_id AS "subscription_id!",
    c.metric_id AS "metric_id!", s.invoice_id, s.usage_start AS "usage_start!",
    s.usage_end AS "usage_end!", s.whole_seconds, s.plan_version_id, u.started_at
FROM changed c
JOIN invoice_subscriptions s
    ON s.organization_id = c.organization_id AND s.invoice_id = c.invoice_id
    AND s.subscription_id = c.subscription_id
JOIN invoices i
    ON i.organization_id = s.organization_id AND i.id = s.invoice_id AND i.status = 'finalized'
JOIN subscriptions u ON u.organization_id = s.organization_id AND u.id = s.subscription_id
ORDER BY s.usage_start, c.subscription_id, c.metric_id
