-- Nothing here compares each invoice of the batch with each other: the planner takes a batch for a
-- handful of rows, and joins two of them by trying every pair. So an invoice is looked up by its key
-- (with its status in the condition it would be looked for among all drafts), and a customer carries
-- its invoices along instead of being joined with them.
WITH named AS MATERIALIZED (
    SELECT organization_id, id, customer_id, due_at, status
    FROM invoices
    WHERE (organization_id, id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
    FOR UPDATE
),
counted AS (
    UPDATE customers c
    SET invoice_sequence = c.invoice_sequence + n.drafts
    FROM (
        SELECT organization_id, customer_id, count(*) AS drafts,
            array_agg(id ORDER BY due_at, id) AS ids
        FROM named
        WHERE status = 'draft'
        GROUP BY organization_id, customer_id
    ) n
    WHERE c.organization_id = n.organization_id AND c.id = n.customer_id
    RETURNING c.organization_id, c.invoice_sequence - n.drafts AS before,
        c.sequential_id::text AS customer, n.ids
),
assigned AS (
    SELECT c.organization_id, d.id, c.before + d.place AS sequential_id,
           (c.before + d.place)::text AS place, c.customer, o.document_number_prefix AS prefix
    FROM counted c
    JOIN organizations o ON o.id = c.organization_id
    CROSS JOIN LATERAL unnest(c.ids) WITH ORDINALITY AS d (id, place)
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
