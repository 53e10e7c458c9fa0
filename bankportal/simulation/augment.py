"""Adding the behavioural factors that a real base file lacks, drawn from the simulator's model.

The latent state is drawn given the customer's base factors and label, and the behaviours given the latent state. Given
the latent state, a behaviour does not depend on the label.
"""

import numpy as np

from bankportal.data.reading import Table
from bankportal.simulation import customers
from bankportal.simulation.likelihoods import Column, Columns, Floats, as_floats, draw_all


def augment(columns: Columns, labels: Column, seed: int) -> dict[str, Column]:
    """Return the columns with the missing behavioural factors added at the end.

    `columns` are named as the factors are, equally long, NaN or `None` where unknown; unknown columns travel along. A
    label column that is named as in the public file is named as in the simulated ones. `labels` are 1, 0 or NaN where
    unknown: then the latent state comes from its prior. Behaviours that exist stay as they are.
    Raises `ValueError` where the lengths differ or a label is neither.
    """
    return augment_known(columns, labels, seed)[0]


def augment_known(columns: Columns, labels: Column, seed: int) -> tuple[dict[str, Column], Floats]:
    """Augment as `augment` does; return also the probability of leaving given the drawn latent states, (rows,)."""
    known = check_labels(columns, labels)
    generator = np.random.default_rng(seed)
    state = customers.draw_state_given(columns, known, generator)
    renamed = {customers.BASE_LABEL: customers.LABEL}
    named = {renamed.get(name, name): values for name, values in columns.items()}
    return draw_all(customers.BEHAVIOURS, named, state, generator), customers.chance_of_leaving(columns, state)


def in_public_order(table: Table) -> dict[str, Column]:
    """Return a data file's good rows with its columns as the public files order them.

    RowNumber first: each row's number in its file, from 1. Then base factors, label, and the behaviours the file has.
    """
    columns: dict[str, Column] = {"RowNumber": table.positions + 1}
    columns |= {name: table.columns[name] for name in customers.BASE_ORDER if name in table.columns}
    columns |= {} if table.label is None else {table.product.label.name: table.label}
    return columns | {name: values for name, values in table.columns.items() if name not in columns}


def labels_of(table: Table) -> Floats:
    """Return a data file's labels, NaN in a file without."""
    return np.full(len(table), np.nan) if table.label is None else table.label


def check_labels(columns: Columns, labels: Column) -> Floats:
    """Return the labels as floats; raises `ValueError` as `augment` says."""
    known = as_floats(labels)
    if any(len(values) != len(known) for values in columns.values()):
        raise ValueError("columns and labels must have the same number of rows")
    if not np.isin(known[~np.isnan(known)], (0, 1)).all():
        raise ValueError("labels must be 1, 0 or unknown")
    return known
