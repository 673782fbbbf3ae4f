-- What usage is counted by.
CREATE TABLE billable_metrics (
    organization_id uuid NOT NULL REFERENCES organizations (id),
    id uuid NOT NULL,
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    code text NOT NULL CHECK (char_length(code) BETWEEN 1 AND 255),
    event_code text NOT NULL CHECK (char_length(event_code) BETWEEN 1 AND 255),
    description text,
    aggregation text NOT NULL
        CHECK (aggregation IN ('count', 'sum', 'max', 'unique_count', 'latest')),
    field_name text CHECK (char_length(field_name) BETWEEN 1 AND 255),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    PRIMARY KEY (organization_id, id),
    CONSTRAINT billable_metrics_id_key UNIQUE (id),
    -- Counting needs no field, everything else does.
    CONSTRAINT billable_metrics_field_fits_aggregation
        CHECK ((aggregation = 'count') = (field_name IS NULL))
);

CREATE UNIQUE INDEX billable_metrics_code_key ON billable_metrics (organization_id, code)
    WHERE deleted_at IS NULL;
CREATE INDEX billable_metrics_by_creation ON billable_metrics (organization_id, created_at, id);

ALTER TABLE billable_metrics ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON billable_metrics TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
GRANT SELECT, INSERT, UPDATE ON billable_metrics TO weir_tenant;

CREATE FUNCTION catalog_record_metric() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = public, pg_temp
AS $$
DECLARE
    current_version bigint;
BEGIN
    IF TG_OP = 'UPDATE'
        AND (OLD.event_code, OLD.aggregation, OLD.field_name, OLD.deleted_at)
            IS NOT DISTINCT FROM (NEW.event_code, NEW.aggregation, NEW.field_name, NEW.deleted_at)
    THEN
        RETURN NULL;
    END IF;
    current_version := catalog_next_version();
    IF TG_OP <> 'INSERT' THEN
        -- Made and changed in one transaction: nobody saw the first form.
        DELETE FROM catalog_metrics WHERE id = OLD.id AND version_from = current_version;
        UPDATE catalog_metrics SET version_to = current_version
        WHERE id = OLD.id AND version_to IS NULL;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.deleted_at IS NULL THEN
        INSERT INTO catalog_metrics
            (id, organization_id, event_code, aggregation, field_name, version_from)
        VALUES
            (NEW.id, NEW.organization_id, NEW.event_code, NEW.aggregation, NEW.field_name,
             current_version);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER catalog_record AFTER INSERT OR UPDATE OR DELETE ON billable_metrics
    FOR EACH ROW EXECUTE FUNCTION catalog_record_metric();
