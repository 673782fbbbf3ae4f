-- When a subscription is due changes with each of its invoices: in a row of its own that is an entry
-- of two indexes, not of all of its subscription's.
CREATE TABLE subscription_dues (
    organization_id uuid NOT NULL,
    subscription_id uuid NOT NULL,
    customer_id uuid NOT NULL,
    -- The next instant at which an invoice is due; none when nothing more will be.
    next_due_at timestamptz,
    -- Real time at which it was said to be due as soon as that.
    set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (organization_id, subscription_id),
    FOREIGN KEY (organization_id, subscription_id) REFERENCES subscriptions (organization_id, id)
);

INSERT INTO subscription_dues (organization_id, subscription_id, customer_id, next_due_at, set_at)
SELECT organization_id, id, customer_id, next_due_at, next_due_set_at FROM subscriptions;

-- In the order in which the invoicer takes them: at a month's end they are all due at once, and
-- none of them must be sorted.
CREATE INDEX subscription_dues_due ON subscription_dues (next_due_at, organization_id, customer_id)
    WHERE next_due_at IS NOT NULL;

ALTER TABLE subscription_dues ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON subscription_dues TO weir_tenant
    USING (organization_id = weir_organization()) WITH CHECK (organization_id = weir_organization());

GRANT SELECT, INSERT, UPDATE ON subscription_dues TO weir_tenant;

ALTER TABLE subscriptions DROP COLUMN next_due_at, DROP COLUMN next_due_set_at;
