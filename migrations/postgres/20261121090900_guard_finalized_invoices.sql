-- A finalized invoice is fixed for ever, whatever a bug would like to do to it.
CREATE FUNCTION refuse_change_of_finalized_invoice() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    IF OLD.status = 'finalized' AND (TG_OP = 'DELETE' OR ROW (OLD.*) IS DISTINCT FROM ROW (NEW.*))
    THEN
        RAISE EXCEPTION 'invoice % is finalized', OLD.number
            USING ERRCODE = 'check_violation', CONSTRAINT = 'finalized_invoice_is_fixed';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;

CREATE TRIGGER finalized_is_fixed BEFORE UPDATE OR DELETE ON invoices
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_finalized_invoice();

CREATE FUNCTION refuse_change_below_finalized_invoice() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    IF EXISTS (
        SELECT FROM touched
        JOIN invoices USING (organization_id)
        WHERE invoices.id = touched.invoice_id AND invoices.status = 'finalized'
    ) THEN
        RAISE EXCEPTION 'a line of a finalized invoice was touched'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'finalized_invoice_is_fixed';
    END IF;
    RETURN NULL;
END
$$;

-- Transition tables allow one event each.
CREATE TRIGGER finalized_is_fixed_insert AFTER INSERT ON fees
    REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_below_finalized_invoice();
CREATE TRIGGER finalized_is_fixed_update AFTER UPDATE ON fees
    REFERENCING OLD TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_below_finalized_invoice();
CREATE TRIGGER finalized_is_fixed_delete AFTER DELETE ON fees
    REFERENCING OLD TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_below_finalized_invoice();
CREATE TRIGGER finalized_is_fixed_insert AFTER INSERT ON invoice_subscriptions
    REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_below_finalized_invoice();
CREATE TRIGGER finalized_is_fixed_update AFTER UPDATE ON invoice_subscriptions
    REFERENCING OLD TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_below_finalized_invoice();
CREATE TRIGGER finalized_is_fixed_delete AFTER DELETE ON invoice_subscriptions
    REFERENCING OLD TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_below_finalized_invoice();
