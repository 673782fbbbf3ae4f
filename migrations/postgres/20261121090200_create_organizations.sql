-- Every other row belongs to one of these.
CREATE TABLE organizations (
    id uuid PRIMARY KEY,
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    document_number_prefix text NOT NULL CHECK (document_number_prefix ~ '^[A-Z0-9-]{1,10}$'),
    -- The sequential_id of the newest customer.
    customer_sequence bigint NOT NULL DEFAULT 0 CHECK (customer_sequence >= 0),
    created_at timestamptz NOT NULL,
    CONSTRAINT organizations_name_key UNIQUE (name)
);

ALTER TABLE organizations ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON organizations TO weir_tenant
    USING (id = weir_organization()) WITH CHECK (id = weir_organization());
GRANT SELECT, UPDATE (customer_sequence) ON organizations TO weir_tenant;
