-- A create that is sent twice with one key is done once. Real time, also on a test clock.
CREATE TABLE idempotency_keys (
    organization_id uuid NOT NULL REFERENCES organizations (id),
    key text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 255),
    rpc text NOT NULL,
    request_hash bytea NOT NULL CHECK (octet_length(request_hash) = 32),
    -- What was made; set before the commit.
    resource uuid,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, key)
);

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (organization_id, claimed_at);

ALTER TABLE idempotency_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON idempotency_keys TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys TO weir_tenant;
