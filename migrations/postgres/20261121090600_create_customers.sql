-- Who is billed.
CREATE TABLE customers (
    organization_id uuid NOT NULL REFERENCES organizations (id),
    id uuid NOT NULL,
    external_id text NOT NULL CHECK (char_length(external_id) BETWEEN 1 AND 255),
    sequential_id bigint NOT NULL CHECK (sequential_id >= 1),
    -- The sequential_id of the newest finalized invoice.
    invoice_sequence bigint NOT NULL DEFAULT 0 CHECK (invoice_sequence >= 0),
    name text,
    firstname text,
    lastname text,
    email text,
    phone text,
    url text,
    legal_name text,
    legal_number text,
    tax_identification_number text,
    address_line1 text,
    address_line2 text,
    city text,
    state text,
    zipcode text,
    country text CHECK (country ~ '^[A-Z]{2}$'),
    currency text CHECK (currency ~ '^[A-Z]{3}$'),
    timezone text,
    invoice_grace_period_days integer CHECK (invoice_grace_period_days BETWEEN 0 AND 65535),
    net_payment_term_days integer CHECK (net_payment_term_days BETWEEN 0 AND 65535),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    PRIMARY KEY (organization_id, id),
    CONSTRAINT customers_id_key UNIQUE (id),
    CONSTRAINT customers_sequential_id_key UNIQUE (organization_id, sequential_id)
);

CREATE UNIQUE INDEX customers_external_id_key ON customers (organization_id, external_id)
    WHERE deleted_at IS NULL;
CREATE INDEX customers_by_creation ON customers (organization_id, created_at, id);

ALTER TABLE customers ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON customers TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
GRANT SELECT, INSERT, UPDATE ON customers TO weir_tenant;
