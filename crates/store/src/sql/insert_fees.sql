INSERT INTO fees
    (organization_id, id, invoice_id, subscription_id, position, kind, charge_id, metric_id,
     events, name, code, period_start, period_end, units, precise_amount, amount_minor, currency,
     filter_id, group_values, corrects_fee_id)
SELECT organization_id, id, invoice_id, subscription_id, position, kind, charge_id, metric_id,
    events, name, code, period_start, period_end, units::numeric, precise_amount::numeric,
    amount_minor, currency, filter_id, group_values, corrects_fee_id
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::integer[], $6::text[], $7::uuid[],
    $8::uuid[], $9::bigint[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[],
    $14::text[], $15::text[], $16::bigint[], $17::text[], $18::uuid[], $19::jsonb[],
    $20::uuid[]) AS f
    (organization_id, id, invoice_id, subscription_id, position, kind, charge_id, metric_id,
     events, name, code, period_start, period_end, units, precise_amount, amount_minor, currency,
     filter_id, group_values, corrects_fee_id)
