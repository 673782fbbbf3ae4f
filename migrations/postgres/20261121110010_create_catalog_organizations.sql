-- The edge judges by an organization's settings. Only those that differ from the defaults are kept.
CREATE TABLE catalog_organizations (
    organization_id uuid NOT NULL,
    lenient boolean NOT NULL,
    events_per_second_max integer,
    version_from bigint NOT NULL,
    version_to bigint CHECK (version_to > version_from),
    PRIMARY KEY (organization_id, version_from)
);

CREATE UNIQUE INDEX catalog_organizations_open ON catalog_organizations (organization_id)
    WHERE version_to IS NULL;
CREATE INDEX catalog_organizations_from ON catalog_organizations (version_from);
CREATE INDEX catalog_organizations_to ON catalog_organizations (version_to)
    WHERE version_to IS NOT NULL;

ALTER TABLE catalog_organizations ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON catalog_organizations TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());

CREATE FUNCTION catalog_record_organization() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = public, pg_temp
AS $$
DECLARE
    current_version bigint;
    by_default boolean := NOT NEW.lenient AND NEW.events_per_second_max IS NULL;
BEGIN
    IF TG_OP = 'INSERT' AND by_default
        OR TG_OP = 'UPDATE' AND (OLD.lenient, OLD.events_per_second_max)
            IS NOT DISTINCT FROM (NEW.lenient, NEW.events_per_second_max)
    THEN
        RETURN NULL;
    END IF;
    current_version := catalog_next_version();
    -- Changed twice in one transaction: nobody saw the first form.
    DELETE FROM catalog_organizations
    WHERE organization_id = NEW.id AND version_from = current_version;
    UPDATE catalog_organizations SET version_to = current_version
    WHERE organization_id = NEW.id AND version_to IS NULL;
    IF NOT by_default THEN
        INSERT INTO catalog_organizations
            (organization_id, lenient, events_per_second_max, version_from)
        VALUES (NEW.id, NEW.lenient, NEW.events_per_second_max, current_version);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER catalog_record
    AFTER INSERT OR UPDATE OF lenient, events_per_second_max ON organizations
    FOR EACH ROW EXECUTE FUNCTION catalog_record_organization();
