-- Thousands of fees are written at once and count a handful of metrics: asking once for each metric
-- instead of once for each row takes a quarter off the time of writing them.
ALTER TABLE fees DROP CONSTRAINT fees_organization_id_metric_id_fkey;

CREATE FUNCTION refuse_fee_of_unknown_metric() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    IF EXISTS (
        SELECT FROM (
            SELECT DISTINCT organization_id, metric_id FROM touched WHERE metric_id IS NOT NULL
        ) counted
        WHERE NOT EXISTS (
            SELECT FROM billable_metrics m
            WHERE m.organization_id = counted.organization_id AND m.id = counted.metric_id
        )
    ) THEN
        RAISE EXCEPTION 'a fee counts a metric that is not there'
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'fees_metric_known';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER metric_is_known_insert AFTER INSERT ON fees
    REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_fee_of_unknown_metric();
CREATE TRIGGER metric_is_known_update AFTER UPDATE ON fees
    REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_fee_of_unknown_metric();

-- The other half of what the foreign key said: metrics are archived, never deleted while a fee has
-- them.
CREATE FUNCTION refuse_deletion_of_billed_metric() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    IF EXISTS (
        SELECT FROM fees
        WHERE fees.organization_id = OLD.organization_id AND fees.metric_id = OLD.id
    ) THEN
        RAISE EXCEPTION 'metric % is on an invoice', OLD.id
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'fees_metric_known';
    END IF;
    RETURN OLD;
END
$$;

CREATE TRIGGER billed_metric_stays BEFORE DELETE ON billable_metrics
    FOR EACH ROW EXECUTE FUNCTION refuse_deletion_of_billed_metric();
