-- What customers owe, and why.
CREATE TABLE invoices (
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    customer_id uuid NOT NULL,
    status text NOT NULL CHECK (status IN ('draft', 'finalized')),
    due_at timestamptz NOT NULL,
    finalize_at timestamptz NOT NULL,
    finalized_at timestamptz,
    number text,
    -- 1, 2, 3 … within the customer, in the order of finalization.
    sequential_id bigint CHECK (sequential_id >= 1),
    issuing_date date NOT NULL,
    payment_due_date date NOT NULL,
    total_minor bigint NOT NULL CHECK (total_minor BETWEEN 0 AND 9007199254740992),
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, id),
    FOREIGN KEY (organization_id, customer_id) REFERENCES customers (organization_id, id),
    CONSTRAINT invoices_number_key UNIQUE (organization_id, number),
    CONSTRAINT invoices_sequential_id_key UNIQUE (organization_id, customer_id, sequential_id),
    CONSTRAINT invoices_payment_due_after_issue CHECK (payment_due_date >= issuing_date),
    CONSTRAINT invoices_number_when_finalized CHECK (
        (status = 'finalized') = (number IS NOT NULL)
        AND (status = 'finalized') = (sequential_id IS NOT NULL)
        AND (status = 'finalized') = (finalized_at IS NOT NULL)
    )
);

CREATE INDEX invoices_by_creation ON invoices (organization_id, created_at, id);
CREATE INDEX invoices_by_customer ON invoices (organization_id, customer_id, created_at, id);
-- In the order in which the invoicer takes them.
CREATE INDEX invoices_drafts_due ON invoices (finalize_at, due_at, id) WHERE status = 'draft';

-- What of a subscription an invoice settles.
CREATE TABLE invoice_subscriptions (
    organization_id uuid NOT NULL,
    invoice_id uuid NOT NULL,
    subscription_id uuid NOT NULL,
    position integer NOT NULL CHECK (position >= 0),
    due_at timestamptz NOT NULL,
    base_start timestamptz,
    base_end timestamptz,
    usage_start timestamptz,
    usage_end timestamptz,
    plan_version_id uuid NOT NULL,
    PRIMARY KEY (organization_id, invoice_id, subscription_id),
    FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id),
    FOREIGN KEY (organization_id, subscription_id) REFERENCES subscriptions (organization_id, id),
    FOREIGN KEY (organization_id, plan_version_id) REFERENCES plan_versions (organization_id, id),
    CONSTRAINT invoice_subscriptions_base_whole CHECK ((base_start IS NULL) = (base_end IS NULL)),
    CONSTRAINT invoice_subscriptions_usage_whole
        CHECK ((usage_start IS NULL) = (usage_end IS NULL)),
    -- Exactly one invoice for a subscription and instant, whatever runs twice or at once.
    CONSTRAINT invoice_subscriptions_due_key UNIQUE (organization_id, subscription_id, due_at),
    CONSTRAINT invoice_subscriptions_base_overlap EXCLUDE USING gist (
        subscription_id WITH =, tstzrange(base_start, base_end) WITH &&
    ) WHERE (base_start IS NOT NULL),
    CONSTRAINT invoice_subscriptions_usage_overlap EXCLUDE USING gist (
        subscription_id WITH =, tstzrange(usage_start, usage_end) WITH &&
    ) WHERE (usage_start IS NOT NULL)
);

CREATE TABLE fees (
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    invoice_id uuid NOT NULL,
    subscription_id uuid NOT NULL,
    position integer NOT NULL CHECK (position >= 0),
    kind text NOT NULL CHECK (kind IN ('subscription', 'charge')),
    charge_id uuid,
    metric_id uuid,
    events bigint CHECK (events >= 0),
    name text NOT NULL,
    code text NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    units numeric(38, 12) NOT NULL,
    -- Major units, every digit.
    precise_amount numeric NOT NULL,
    amount_minor bigint NOT NULL
        CHECK (amount_minor BETWEEN -9007199254740992 AND 9007199254740992),
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    PRIMARY KEY (organization_id, id),
    FOREIGN KEY (organization_id, invoice_id, subscription_id)
        REFERENCES invoice_subscriptions (organization_id, invoice_id, subscription_id),
    FOREIGN KEY (organization_id, metric_id) REFERENCES billable_metrics (organization_id, id),
    CONSTRAINT fees_position_key UNIQUE (organization_id, invoice_id, position),
    CONSTRAINT fees_period_forward CHECK (period_start <= period_end),
    CONSTRAINT fees_charge_fits_kind CHECK (
        (kind = 'charge') = (charge_id IS NOT NULL)
        AND (kind = 'charge') = (metric_id IS NOT NULL)
        AND (kind = 'charge') = (events IS NOT NULL)
    )
);

CREATE INDEX fees_by_metric ON fees (organization_id, metric_id) WHERE metric_id IS NOT NULL;

ALTER TABLE invoices ENABLE ROW LEVEL SECURITY;
ALTER TABLE invoice_subscriptions ENABLE ROW LEVEL SECURITY;
ALTER TABLE fees ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON invoices TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
CREATE POLICY tenant ON invoice_subscriptions TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
CREATE POLICY tenant ON fees TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());
GRANT SELECT, INSERT, UPDATE ON invoices, invoice_subscriptions TO weir_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON fees TO weir_tenant;
