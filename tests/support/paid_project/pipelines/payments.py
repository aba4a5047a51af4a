"""The stream of payments; the environment names its topic, which each test has of its own."""

import os

from stream_sample import CHECK, CUSTOMER, a_stream

customer = CUSTOMER
check = CHECK
payments = a_stream(os.environ.get("PAYMENTS_TOPIC", "payments"))
