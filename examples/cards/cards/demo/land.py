"""`python -m cards.demo.land`: write the landing files of past days."""

import argparse
from datetime import date

from cards.landing import landing_days
from cards.simulator import CUSTOMERS
from cards.sources import PAYMENTS
from forecache import load_settings
from forecache.testing import land_demo_data


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cards.demo.land", description=__doc__)
    parser.add_argument("--customers", type=int, default=CUSTOMERS, help="How many there are (default: %(default)s).")
    parser.add_argument("--last", type=date.fromisoformat, default=PAYMENTS.end, help="The last day.")
    options = parser.parse_args()
    (landed,) = land_demo_data(load_settings(), landing_days(options.customers, options.last))
    print(f"{landed.rows:,} payments until {options.last}: {landed.details['files']} new files")


if __name__ == "__main__":
    main()
