SELECT id AS "id!", invoice_id AS "invoice_id!", subscription_id AS "subscription_id!",
    kind AS "kind!", charge_id, metric_id, filter_id, group_values, events, corrects_fee_id,
    name AS "name!", code AS "code!", period_start AS "period_start!", period_end AS "period_end!",
    units::text AS "units!", precise_amount::text AS "precise_amount!",
    amount_minor AS "amount_minor!", currency AS "currency!"
FROM fees
WHERE (organization_id, invoice_id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
  AND kind = 'charge'
UNION ALL
SELECT id, invoice_id, subscription_id, kind, charge_id, metric_id, filter_id, group_values, events,
    corrects_fee_id, name, code, period_start, period_end, units::text, precise_amount::text,
    amount_minor, currency
FROM fees
WHERE (organization_id, subscription_id, period_start)
        IN (SELECT * FROM unnest($1::uuid[], $3::uuid[], $4::timestamptz[]))
  AND kind = 'true_up'
