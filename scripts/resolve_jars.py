"""Resolve jars for Spark once into a folder, checked by content, so that sessions start from local files.

They are the two of Delta or, with --s3, what Spark needs to read and write `s3a://`: hadoop-aws and the modules of the
AWS SDK that it uses, 10 MB instead of the SDK's bundle of hundreds. What Spark ships itself (Netty, Apache's HTTP
client, SLF4J) is left out: a second one on the class path breaks the session.

Ivy comes with pyspark; its built-in settings name the public repository. Behind a mirror, give an Ivy settings file:

Usage: python scripts/resolve_jars.py FOLDER [--s3] [--java JAVA] [--ivy-settings FILE]
"""

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

Coordinates = tuple[str, str, str]

_AWS_SDK = {
    "annotations": "8cd8bd8afd7eca5a367f69fd87427f6d9f3e7d359962122da24d71f1963f00cd",
    "apache-client": "c96494be30ecac6f0ab7a35fdd91a4c77ca8a5daf62f3d9d84644ef0f0524dc6",
    "arns": "f5a4d1d9b4e4fc63c9bda49bcf1c59d23fd876b276c6b43aaca12969337303a6",
    "auth": "4d8143b6198dc7a530c2ccdd813129c132b96736086c0d4fea85480b9bdbc5fe",
    "aws-core": "eb560c064fbaac7e2e7f4a77ac343d3083bea0d7f6e2c69ba022d3f3e859be90",
    "aws-query-protocol": "1b117672963ee5059c45f2aadb110f191b578d108d8f08d7c7a59e6c0b098a8e",
    "aws-xml-protocol": "daf87b429373ad586d165003b5b1d4fe498c6472eb65ec9a9e2aa7d56f3917dd",
    "checksums": "bca99ff25c9b917d6be03e5dce78ad5328e7dca485e96024fa8476e4192a800a",
    "checksums-spi": "21193b9b648843dcaff493f0dd80abab9ee6871b203b9218120554698d8f7b8a",
    "crt-core": "4e1f33de21b688695fec91b977ddfa99e9d376edcbad06a62b0c138c60b37de4",
    "endpoints-spi": "e54f246c668d70b55cffe0c8fad18d4465e74e22db75139918bd30610093d1e6",
    "http-auth": "d8aa3bd376aaec7196396e65fe8755f1fdd169e51357f8128ecdc7d23a687450",
    "http-auth-aws": "7ae124e81ac0c2860bb61fdde34a388dbe823fef8509dd46a6bec805ada90308",
    "http-auth-aws-eventstream": "565a4aacce955c5ffaed551f6faaaa958e9e92b2f8514c8482f664edb2bab576",
    "http-auth-spi": "7a2168c5a7baa856d7ae9f9c4f7522d2db9f1361108c38f5b6ece66f249e6a2d",
    "http-client-spi": "8ea61ce3b527779fbfe119e0775c4b7cfdf274a979b1e50596a634685a5b6542",
    "identity-spi": "85104635abf9e5c044aaf7f8951b63efc2ef82051b5ee303571ee2e1fd8b46d0",
    "json-utils": "2652cdb3668311bcff6e643c8612b9fea266423ae1ce33743c84dd7f77904311",
    "metrics-spi": "1db2e3da338148ee40a716e1733c9a5b99e9e6daa4db3aa8bd7e718adafa2510",
    "netty-nio-client": "07238668c9cf54531ee269fd6e2a1e2650fb75d6774d401f406c2a14f26af654",
    "profiles": "fef84619d101838ba45f48d0caddb09a85d9ed8bf869095bd7d2064796856cf7",
    "protocol-core": "7b32e41a3743b422d2edec1670f60b4c1e512fcd5ab7a53fef20742d6b9104d1",
    "regions": "5ee0e26277c679ffa70d83923b0d5f77a53066ecde8610f28be1856947d60eaf",
    "retries": "ca3752ba31399721980c6398992921ff5aa164e084b4c14484333df58c76a353",
    "retries-spi": "a4218ea742fc9e07a620629d7a258bfd92b8ea3ef75f1b99193d0898ca3efe99",
    "s3": "abaedea7e68063e9c4ab090f80d14b9884c57b50953bfe6e5acaa23025609efa",
    "s3-transfer-manager": "0c9e654637247187a7e2494eb7a8799477a772a7d554cd3ae787cd3e3bae3c55",
    "sdk-core": "ea8e9856569f85075a8a806d0481c4bd848c98b24fd6d706fc0b5883fc4604dc",
    "sts": "6495d0457f4e4c3724d8c9c5fe4f6f98c9530a22f92449c4cca5fd03622e4edb",
    "third-party-jackson-core": "eaece3eb60beb8ec09d8a4f48d5bff4110010b03cc23688bdcf2af2eb075cac6",
    "utils": "f150a38f2fec14ced2de6459bfe804f647c88baa573b218646ef89b436a29d42",
}
DELTA_JARS = {
    ("io.delta", "delta-spark_4.1_2.13", "4.4.0"): "75a9400986853c061f5109f012547de2545a5759e5e752e5ef633dabe16a4f10",
    ("io.delta", "delta-storage", "4.4.0"): "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
}
S3_JARS = {
    ("org.reactivestreams", "reactive-streams", "1.0.4"): (
        "f75ca597789b3dac58f61857b9ac2e1034a68fa672db35055a8fb4509e325f28"
    ),
    ("software.amazon.eventstream", "eventstream", "1.0.1"): (
        "0c37d8e696117f02c302191b8110b0d0eb20fa412fce34c3a269ec73c16ce822"
    ),
    **{("software.amazon.awssdk", name, "2.29.52"): sha256 for name, sha256 in _AWS_SDK.items()},
    # The last one: where it lies, all the others do.
    ("org.apache.hadoop", "hadoop-aws", "3.4.2"): "d2d24e6b715b5656b9d238bf13b6682a07e2004dd36aad74a73aeb854319f4d9",
}


def jar_path(folder: Path, coordinates: Coordinates) -> Path:
    _, name, version = coordinates
    return folder / f"{name}-{version}.jar"


def is_current(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def resolve(folder: Path, wanted: Collection[Coordinates], *, java: str, ivy_settings: str) -> str:
    """Fetch jars into `folder`, those that they depend on left out; returns what Ivy said."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        return "pyspark, which carries Ivy, is not installed in this environment"
    classpath = str(Path(spec.origin).parent / "jars" / "*")
    with tempfile.TemporaryDirectory() as cache:
        module = Path(cache) / "ivy.xml"
        module.write_text(_ivy_module(wanted))
        command = [java, "-cp", classpath, "org.apache.ivy.Main", "-cache", cache]
        command += ["-settings", ivy_settings] if ivy_settings else []
        command += ["-ivy", str(module), "-confs", "default", "-warn"]
        command += ["-retrieve", f"{folder}/[artifact]-[revision].[ext]"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return done.stdout + done.stderr


def _ivy_module(wanted: Collection[Coordinates]) -> str:
    lines = [
        f'<dependency org="{organisation}" name="{name}" rev="{version}" transitive="false" conf="default->default"/>'
        for organisation, name, version in wanted
    ]
    info = '<info organisation="forecache" module="jars"/><configurations><conf name="default"/></configurations>'
    return f'<ivy-module version="2.0">{info}<dependencies>{"".join(lines)}</dependencies></ivy-module>'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--s3", action="store_true", help="What Spark needs for s3a:// instead of Delta's.")
    parser.add_argument("--java", default="java")
    parser.add_argument("--ivy-settings", default="")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = S3_JARS if arguments.s3 else DELTA_JARS
    missing = {
        coordinates: sha256
        for coordinates, sha256 in wanted.items()
        if not is_current(jar_path(folder, coordinates), sha256)
    }
    if not missing:
        return 0
    for coordinates in missing:
        jar_path(folder, coordinates).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as fetched:
        said = resolve(Path(fetched), missing, java=arguments.java, ivy_settings=arguments.ivy_settings)
        for coordinates, sha256 in missing.items():
            path = jar_path(Path(fetched), coordinates)
            if not is_current(path, sha256):
                reason = "has other content than expected" if path.exists() else "could not be resolved"
                print(f"The jar {':'.join(coordinates)} {reason}:\n{said[-2000:].strip()}", file=sys.stderr)
                print(
                    f"Check the network, or copy {path.name} (sha256 {sha256}) into {folder} by hand.", file=sys.stderr
                )
                return 1
            path.replace(folder / path.name)
    size = sum(jar_path(folder, coordinates).stat().st_size for coordinates in missing)
    print(f"  {len(missing)} jars, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
