-- Clients prove by a secret which organization they act for; only its hash is kept.
CREATE TABLE api_keys (
    organization_id uuid NOT NULL REFERENCES organizations (id),
    id uuid NOT NULL,
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    key_hash bytea NOT NULL CHECK (octet_length(key_hash) = 32),
    scopes text[] NOT NULL CHECK (cardinality(scopes) BETWEEN 1 AND 100),
    created_at timestamptz NOT NULL,
    revoked_at timestamptz,
    PRIMARY KEY (organization_id, id),
    CONSTRAINT api_keys_key_hash_key UNIQUE (key_hash)
);

ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON api_keys TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
GRANT SELECT, INSERT, UPDATE ON api_keys TO weir_tenant;

CREATE FUNCTION catalog_record_key() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = public, pg_temp
AS $$
DECLARE
    current_version bigint;
BEGIN
    IF TG_OP = 'UPDATE'
        AND (OLD.key_hash, OLD.scopes, OLD.revoked_at)
            IS NOT DISTINCT FROM (NEW.key_hash, NEW.scopes, NEW.revoked_at) THEN
        RETURN NULL;
    END IF;
    current_version := catalog_next_version();
    IF TG_OP <> 'INSERT' THEN
        -- Made and changed in one transaction: nobody saw the first form.
        DELETE FROM catalog_keys WHERE id = OLD.id AND version_from = current_version;
        UPDATE catalog_keys SET version_to = current_version
        WHERE id = OLD.id AND version_to IS NULL;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.revoked_at IS NULL THEN
        INSERT INTO catalog_keys (id, organization_id, key_hash, scopes, version_from)
        VALUES (NEW.id, NEW.organization_id, NEW.key_hash, NEW.scopes, current_version);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER catalog_record AFTER INSERT OR UPDATE OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION catalog_record_key();
