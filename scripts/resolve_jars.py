"""Resolve jars for Spark once into a folder, checked by content, so that sessions start from local files.

They are the two of Delta or, with --s3, what Spark needs to read and write `s3a://`: hadoop-aws and the modules of the
AWS SDK that it uses, 10 MB instead of the SDK's bundle of hundreds. What Spark ships itself (Netty, Apache's HTTP
client, SLF4J) is left out: a second one on the class path breaks the session. With --kafka they are a Kafka broker with
all that it depends on, for a folder of its own: tests, benchmarks and the demo of streams start it. With --streams they
are what lets Spark read Kafka: its connector, Kafka's client and the pool that the connector keeps it in.

Ivy comes with pyspark; its built-in settings name the public repository. Behind a mirror, give an Ivy settings file:

Usage: python scripts/resolve_jars.py FOLDER [--s3 | --kafka | --streams] [--java JAVA] [--ivy-settings FILE]
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

_JARS = {
    "delta": {
        ("io.delta", "4.4.0"): {
            "delta-spark_4.1_2.13": "75a9400986853c061f5109f012547de2545a5759e5e752e5ef633dabe16a4f10",
            "delta-storage": "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
        },
    },
    "streams": {
        ("org.apache.spark", "4.1.1"): {
            "spark-sql-kafka-0-10_2.13": "9c1ce986f548e6b1dcb0e2dfe2f253a0bc58f2232a32a0c9c6c674dd25a8570c",
            "spark-token-provider-kafka-0-10_2.13": "e510adc37b03d01d0a190d0dab472b5538e05eaa77454f7e9477156d7a6820ae",
        },
        ("org.apache.kafka", "3.9.1"): {
            "kafka-clients": "7568b998572d256f0b7bc0afdc1b7a2588b8b08415c62ce314c864a6851ae9d9",
        },
        # The last one: where it lies, all the others do.
        ("org.apache.commons", "2.12.1"): {
            "commons-pool2": "5273c8bc8c0dca2211175c0d27efbd7228efae99689aac001a8e1ef8e872e9ef",
        },
    },
    "s3": {
        ("org.reactivestreams", "1.0.4"): {
            "reactive-streams": "f75ca597789b3dac58f61857b9ac2e1034a68fa672db35055a8fb4509e325f28",
        },
        ("software.amazon.eventstream", "1.0.1"): {
            "eventstream": "0c37d8e696117f02c302191b8110b0d0eb20fa412fce34c3a269ec73c16ce822",
        },
        ("software.amazon.awssdk", "2.29.52"): {
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
        },
        # The last one: where it lies, all the others do.
        ("org.apache.hadoop", "3.4.2"): {
            "hadoop-aws": "d2d24e6b715b5656b9d238bf13b6682a07e2004dd36aad74a73aeb854319f4d9",
        },
    },
    "kafka": {
        ("com.dynatrace.hash4j", "0.22.0"): {
            "hash4j": "23028a3fd006e530bf495f551083208187cafd8f80624d048eba56442f16a50e",
        },
        ("com.fasterxml.jackson.core", "2.19.0"): {
            "jackson-annotations": "ead60e9cac0e42b57092b9e2d087ff43536e9477d4486ba393037a8cc156cda7",
            "jackson-core": "da8e859bac94874528116a25f20c68560e4287acbf27628711b8a4f96b028430",
            "jackson-databind": "ceda311f476c3b18e1d2b240c94e2dcb9c8d44e70f8afa9facab88bac4ddc03a",
        },
        ("com.fasterxml.jackson.dataformat", "2.19.0"): {
            "jackson-dataformat-csv": "bec1150426b0616bb488149b952b45a0dcb16d9416b017c38f6455ad9389bc68",
            "jackson-dataformat-yaml": "46e54dcbd39d4d12cda18ec9276e7b888e08fc765ea0c77e71662306f0d4abc4",
        },
        ("com.fasterxml.jackson.datatype", "2.19.0"): {
            "jackson-datatype-jdk8": "04f1a3f9da8155995dd00098d6847cdb9b7af67f4a3028c94031eff017c8e3e5",
        },
        ("com.github.ben-manes.caffeine", "3.2.0"): {
            "caffeine": "ec411dfdf0c03f25218648ce89861630b71680e5858a9a7278ebac8e55cab3d7",
        },
        ("com.github.luben", "1.5.6-10"): {
            "zstd-jni": "b6c3237e24b8252a5a9c3a0e1ae30ef8f323412e74bd358548b7a9e527d676df",
        },
        ("com.google.re2j", "1.8"): {
            "re2j": "7b52c72156dd7f98b3237a5b35c1d34fba381b21048c89208913ad80a45dfbd7",
        },
        ("com.typesafe.scala-logging", "3.9.5"): {
            "scala-logging_2.13": "87a3017d3f43e6ace7566fe4c3d615134c6914ff871c8d64bb32ca1d996d0545",
        },
        ("com.yammer.metrics", "2.2.0"): {
            "metrics-core": "6b7a14a6f34c10f8683f7b5e2f39df0f07b58c7dff0e468ebbc713905c46979c",
        },
        ("commons-beanutils", "1.9.4"): {
            "commons-beanutils": "7d938c81789028045c08c065e94be75fc280527620d5bd62b519d5838532368a",
        },
        ("commons-collections", "3.2.2"): {
            "commons-collections": "eeeae917917144a68a741d4c0dff66aa5c5c5fd85593ff217bced3fc8ca783b8",
        },
        ("commons-digester", "2.1"): {
            "commons-digester": "e0b2b980a84fc6533c5ce291f1917b32c507f62bcad64198fff44368c2196a3d",
        },
        ("commons-logging", "1.3.2"): {
            "commons-logging": "6b858424f518015f32bfcd1183a373f4a827d72d026b6031da0c91cf0e8f3489",
        },
        ("commons-validator", "1.9.0"): {
            "commons-validator": "c3c14748e2d78db58df88808740711bd643b32c45ffa7b8a739f00fb467cd7d7",
        },
        ("net.sf.jopt-simple", "5.0.4"): {
            "jopt-simple": "df26cc58f235f477db07f753ba5a3ab243ebe5789d9f89ecf68dd62ea9a66c28",
        },
        ("net.sourceforge.argparse4j", "0.7.0"): {
            "argparse4j": "65ceb669d88f63306c680f8088bbf765bbca72d288a61a03703000076c3d3f56",
        },
        ("org.apache.kafka", "4.1.1"): {
            "kafka-clients": "00247122a572c3d3ae4eb60a50192a5811bc0181f51923d13018600f892e821d",
            "kafka-coordinator-common": "2072fc1ce7e0505149bba22a463a5909a899c6235c4fa696f15c21194a7baf60",
            "kafka-group-coordinator-api": "3d1801d2329dcf7d273796a034d61e6c7e0f851f384d0afbdd3a2e6cbd17a968",
            "kafka-group-coordinator": "3eb5a673b69d5992cfa86c5436f39adbf4ce284046a4c999ec6af0a8e31c5589",
            "kafka-metadata": "a689665751415b6456de1ecb013042cb7ba99ac68fd8c3e8bf28e098feb43218",
            "kafka-raft": "4810c93d93d1935dd54de61c5ba130f501c7fe11bc49ccd3ee05ec857818a72a",
            "kafka-server-common": "207edecd8322cf6c13d76d84addea7fd0ec441dc8d698cf69df43210ccdc0a94",
            "kafka-server": "9f6aff422855491aad54326eca8d604163d6d3a6507cc48ffe3ce6de73caf79a",
            "kafka-share-coordinator": "e6bec53428c77bf6579321836d482542a93575f7c08e860a26c9f2c7f6059dac",
            "kafka-storage-api": "8c0a712472185d706c6bf5ae24bf5d84a8e396fd4745c708e6146a415f7fa7f7",
            "kafka-storage": "1f85b82853eaec0143efbef7e3a4d4be8929ff83a386326431e0c2d0a557e58c",
            "kafka-tools-api": "542b08fe20cf872a2d866acdff61ea338b469219dc2ebfae727a1d9ea5737e1a",
            "kafka-transaction-coordinator": "a261b5730ac9e3205df7af5d45180d851e9d5f729ce1275c67511a6f51f73755",
            "kafka_2.13": "e89428126cc7630a802123ba27aac4442816840b66d60670226feaff65f24fd1",
        },
        ("org.apache.logging.log4j", "2.24.3"): {
            "log4j-api": "5b4a0a0cd0e751ded431c162442bdbdd53328d1f8bb2bae5fc1bbeee0f66d80f",
            "log4j-core": "7eb4084596ae25bd3c61698e48e8d0ab65a9260758884ed5cbb9c6e55c44a56a",
            "log4j-slf4j-impl": "40dec251164d1576e000968cd02e56a1125f46b91fb694a06dfa168f1335da48",
        },
        ("org.bitbucket.b_c", "0.9.6"): {
            "jose4j": "7314af50cde9c99e8eaf43eee617a23edcc6bb43036221064355094999d837ef",
        },
        ("org.hdrhistogram", "2.2.2"): {
            "HdrHistogram": "22d1d4316c4ec13a68b559e98c8256d69071593731da96136640f864fa14fad8",
        },
        ("org.jspecify", "1.0.0"): {
            "jspecify": "1fad6e6be7557781e4d33729d49ae1cdc8fdda6fe477bb0cc68ce351eafdfbab",
        },
        ("org.lz4", "1.8.0"): {
            "lz4-java": "d74a3334fb35195009b338a951f918203d6bbca3d1d359033dc33edd1cadc9ef",
        },
        ("org.pcollections", "4.0.2"): {
            "pcollections": "2bbeef5797a241300c4f7513cd546239629ed7deda4fc0c31df90bb95f5f13ef",
        },
        ("org.scala-lang", "2.13.16"): {
            "scala-library": "1ebb2b6f9e4eb4022497c19b1e1e825019c08514f962aaac197145f88ed730f1",
            "scala-reflect": "fb49ccd9cac7464486ab993cda20a3c1569d8ef26f052e897577ad2a4970fb1d",
        },
        ("org.slf4j", "1.7.36"): {
            "slf4j-api": "d3ef575e3e4979678dc01bf1dcce51021493b4d11fb7f1be8ad982877c16a1c0",
        },
        ("org.xerial.snappy", "1.1.10.7"): {
            "snappy-java": "4c766cb3f855415ee734b2392949a0b6f12a60879334a74518deaf6270d32e36",
        },
        ("org.yaml", "2.4"): {
            "snakeyaml": "ef779af5d29a9dde8cc70ce0341f5c6f7735e23edff9685ceaa9d35359b7bb7f",
        },
    },
}
"""What is resolved for what: by organisation and version the names of its jars, with the SHA-256 of each."""
_INSTEAD = {"s3": "What Spark needs for s3a://", "kafka": "A Kafka broker", "streams": "What Spark needs to read Kafka"}


def jars_of(purpose: str) -> dict[Coordinates, str]:
    """The jars for a purpose, and the SHA-256 of each."""
    return {
        (organisation, name, version): sha256
        for (organisation, version), jars in _JARS[purpose].items()
        for name, sha256 in jars.items()
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
    instead = parser.add_mutually_exclusive_group()
    for purpose, what in _INSTEAD.items():
        instead.add_argument(
            f"--{purpose}", action="store_const", dest="purpose", const=purpose, default="delta",
            help=f"{what} instead of Delta's.",
        )  # fmt: skip
    parser.add_argument("--java", default="java")
    parser.add_argument("--ivy-settings", default="")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    missing = {
        coordinates: sha256
        for coordinates, sha256 in jars_of(arguments.purpose).items()
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
