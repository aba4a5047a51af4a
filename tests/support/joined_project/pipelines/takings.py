"""What a shop takes: from what it sold, and from how many people came to its region."""

import dataclasses

from joined_sample import SHOP, WITH_REGION

takings = WITH_REGION
alone = dataclasses.replace(WITH_REGION, name="alone", features=SHOP, entities=None, publish=None)
