SELECT wanted.id AS "id!",
       count(s.id) AS "subscriptions!",
       count(s.id) FILTER (
           WHERE s.started_at <= $3 AND (s.ended_at IS NULL OR s.ended_at > $3)
       ) AS "active_subscriptions!",
       count(DISTINCT s.customer_id) AS "customers!",
       (
           SELECT count(DISTINCT i.id)
           FROM subscriptions t
           JOIN invoice_subscriptions l
               ON l.organization_id = t.organization_id AND l.subscription_id = t.id
           JOIN invoices i ON i.organization_id = l.organization_id AND i.id = l.invoice_id
           WHERE t.organization_id = $1 AND t.plan_id = wanted.id AND i.status = 'draft'
       ) AS "draft_invoices!"
FROM unnest($2::uuid[]) AS wanted (id)
LEFT JOIN subscriptions s ON s.organization_id = $1 AND s.plan_id = wanted.id
GROUP BY wanted.id
