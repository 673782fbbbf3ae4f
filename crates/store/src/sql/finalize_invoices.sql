WITH drafts AS MATERIALIZED (
    SELECT organization_id, id, customer_id, due_at
    FROM invoices
    WHERE (organization_id, id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
      AND status = 'draft'
    FOR UPDATE
),
numbered AS (
    SELECT organization_id, id, customer_id,
           row_number() OVER (PARTITION BY organization_id, customer_id ORDER BY due_at, id) AS place
    FROM drafts
),
counted AS (
    UPDATE customers c
    SET invoice_sequence = c.invoice_sequence + n.drafts
    FROM (
        SELECT organization_id, customer_id, count(*) AS drafts
        FROM drafts
        GROUP BY organization_id, customer_id
    ) n
    WHERE c.organization_id = n.organization_id AND c.id = n.customer_id
    RETURNING c.organization_id, c.id, c.invoice_sequence - n.drafts AS before,
        c.sequential_id::text AS customer
),
assigned AS (
    SELECT n.organization_id, n.id, c.before + n.place AS sequential_id,
           (c.before + n.place)::text AS place, c.customer, o.document_number_prefix AS prefix
    FROM numbered n
    JOIN counted c ON c.organization_id = n.organization_id AND c.id = n.customer_id
    JOIN organizations o ON o.id = n.organization_id
)
UPDATE invoices i
SET status = 'finalized',
    finalized_at = $3,
    updated_at = $3,
    sequential_id = a.sequential_id,
    -- At least three digits each; lpad would cut longer ones.
    number = a.prefix
        || '-' || lpad(a.customer, greatest(3, length(a.customer)), '0')
        || '-' || lpad(a.place, greatest(3, length(a.place)), '0')
FROM assigned a
WHERE i.organization_id = a.organization_id AND i.id = a.id
RETURNING i.id, i.number AS "number!"
