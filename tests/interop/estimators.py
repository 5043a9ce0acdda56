"""Estimators of scikit-learn, exported by skl2onnx with its default options, on rows that show where engines differ.

A row of the table is the name of a case, what is trained, on which rows, and what a device says to it: the same numbers as
onnxruntime, or a refusal whose sentence tells what to do. Nothing may be silently something else, so rows with gaps, ties,
categories never seen, zeros, infinities and numbers far outside what was trained on are among those compared.
"""
import numpy as np

# f32 arithmetic in another order; sums over support vectors and many trees are the worst.
CLOSE = 2e-5
ROWS = 60


def data(rng):
    x = rng.normal(0, 1, (300, 6)).astype(np.float32)
    x[:, 4] = np.round(x[:, 4])  # ties
    two = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(np.int64)
    three = np.digitize(x[:, 0] + x[:, 3], [-0.7, 0.7]).astype(np.int64) * 10 + 5
    number = x[:, 0] * 2 + np.sin(x[:, 1])
    return x, two, three, number


def edges(x):
    """Rows to compare on: some like the trained ones, zeros, large numbers, equal numbers."""
    rows = x[:ROWS].copy()
    rows[0] = 0
    rows[1] = 1
    rows[2] *= 1e4
    rows[3] = -0.0
    rows[4] = -rows[4]
    return rows


def holes(rows, rng):
    """The same with gaps: single ones, and a row of nothing else."""
    rows = rows.copy()
    rows[rng.uniform(size=rows.shape) < 0.2] = np.nan
    rows[5] = np.nan
    return rows


def table(rng):
    """Name → (estimator, what it learns from, target, rows to compare on)."""
    from sklearn import calibration, cluster, compose, decomposition, discriminant_analysis, ensemble, feature_selection, gaussian_process
    from sklearn.base import clone
    from sklearn import impute, linear_model, mixture, multiclass, naive_bayes, neighbors, neural_network, pipeline, preprocessing, svm, tree

    # What is trained without a seed of its own draws from here.
    np.random.seed(7)
    x, two, three, number = data(rng)
    gaps, rows = holes(x, rng), edges(x)
    missing = holes(rows, rng)
    whole = np.stack([rng.integers(0, 5, 300), rng.integers(2, 6, 300) * 10, rng.integers(0, 2, 300)], axis=1).astype(np.float32)
    unseen = whole[:ROWS].copy()
    unseen[:8, 0] = [7, -1, 2.5, 1e6, 5, 4, 1e19, np.nan]
    pipe = pipeline.make_pipeline
    t = {}

    def row(name, estimator, target, learn=x, compare=rows, **more):
        t[name] = {"estimator": estimator, "learn": learn, "target": target, "compare": compare, "limit": CLOSE, **more}

    # linear
    row("logistic-2", linear_model.LogisticRegression(), two)
    row("logistic-3", linear_model.LogisticRegression(), three)
    row("logistic-ovr", multiclass.OneVsRestClassifier(linear_model.LogisticRegression()), three)
    row("linear-regression", linear_model.LinearRegression(), number)
    row("linear-regression-2-targets", linear_model.LinearRegression(), np.stack([number, -number], axis=1))
    row("ridge", linear_model.Ridge(), number)
    row("lasso", linear_model.Lasso(alpha=0.01), number)
    row("elastic-net", linear_model.ElasticNet(alpha=0.01), number)
    row("bayesian-ridge", linear_model.BayesianRidge(), number)
    row("huber", linear_model.HuberRegressor(), number)
    row("poisson-regression", linear_model.PoissonRegressor(), np.abs(number))
    row("ridge-classifier", linear_model.RidgeClassifier(), three)
    row("perceptron", linear_model.Perceptron(), two)
    for loss in ["hinge", "log_loss", "modified_huber"]:
        row(f"sgd-{loss}-2", linear_model.SGDClassifier(loss=loss, random_state=1), two)
        row(f"sgd-{loss}-3", linear_model.SGDClassifier(loss=loss, random_state=1), three)
    row("sgd-regressor", linear_model.SGDRegressor(random_state=1), number)
    row("lda-3", discriminant_analysis.LinearDiscriminantAnalysis(), three)
    row("qda-3", discriminant_analysis.QuadraticDiscriminantAnalysis(), three)

    # support vectors
    row("linear-svc-2", svm.LinearSVC(), two)
    row("linear-svc-3", svm.LinearSVC(), three)
    row("linear-svr", svm.LinearSVR(), number)
    for kernel in ["rbf", "poly", "sigmoid", "linear"]:
        for classes, target in [(2, two), (3, three)]:
            row(f"svc-{kernel}-{classes}", svm.SVC(kernel=kernel), target)
            row(f"svc-{kernel}-{classes}-probability", svm.SVC(kernel=kernel, probability=True, random_state=1), target)
        row(f"svr-{kernel}", svm.SVR(kernel=kernel), number)
    row("svc-ovo", svm.SVC(decision_function_shape="ovo"), three)
    row("svc-degree-4", svm.SVC(kernel="poly", degree=4, coef0=1.0), three)
    row("nu-svc-2", svm.NuSVC(nu=0.3), two)
    row("nu-svc-3", svm.NuSVC(nu=0.3, probability=True, random_state=1), three)
    row("nu-svr", svm.NuSVR(), number)
    row("one-class-svm", svm.OneClassSVM(), None)

    # probability, neighbours, networks, groups
    for name, estimator in [("gaussian", naive_bayes.GaussianNB()), ("bernoulli", naive_bayes.BernoulliNB())]:
        row(f"{name}-nb-2", estimator, two)
        row(f"{name}-nb-3", type(estimator)(), three)
    row("multinomial-nb", naive_bayes.MultinomialNB(), three, np.abs(x), np.abs(rows))
    row("complement-nb", naive_bayes.ComplementNB(), three, np.abs(x), np.abs(rows))
    row("mlp-2", neural_network.MLPClassifier((12,), max_iter=60, random_state=1), two)
    row("mlp-3", neural_network.MLPClassifier((12, 6), max_iter=60, random_state=1, activation="tanh"), three)
    row("mlp-regressor", neural_network.MLPRegressor(hidden_layer_sizes=(12,), max_iter=60, random_state=1), number)
    row("k-neighbours-2", neighbors.KNeighborsClassifier(), two)
    row("k-neighbours-3", neighbors.KNeighborsClassifier(weights="distance"), three)
    row("k-neighbours-regressor", neighbors.KNeighborsRegressor(), number)
    row("k-means", cluster.KMeans(4, n_init=2, random_state=1), None)
    row("gaussian-mixture", mixture.GaussianMixture(3, random_state=1), None)
    row("gaussian-process", gaussian_process.GaussianProcessRegressor(alpha=0.1), number)

    # trees
    row("tree-2", tree.DecisionTreeClassifier(max_depth=5), two)
    row("tree-3", tree.DecisionTreeClassifier(max_depth=5), three)
    row("tree-regressor", tree.DecisionTreeRegressor(max_depth=5), number)
    row("forest-2", ensemble.RandomForestClassifier(20, max_depth=6), two)
    row("forest-3", ensemble.RandomForestClassifier(20, max_depth=6), three)
    row("forest-regressor", ensemble.RandomForestRegressor(20, max_depth=6), number)
    row("extra-trees-3", ensemble.ExtraTreesClassifier(20, max_depth=6), three)
    row("extra-trees-regressor", ensemble.ExtraTreesRegressor(20, max_depth=6), number)
    row("gradient-boosting-2", ensemble.GradientBoostingClassifier(n_estimators=20), two)
    row("gradient-boosting-3", ensemble.GradientBoostingClassifier(n_estimators=20), three)
    row("gradient-boosting-regressor", ensemble.GradientBoostingRegressor(n_estimators=20), number)
    row("hist-boosting-2", ensemble.HistGradientBoostingClassifier(max_iter=20), two, gaps, missing)
    row("hist-boosting-3", ensemble.HistGradientBoostingClassifier(max_iter=20), three, gaps, missing)
    row("hist-boosting-regressor", ensemble.HistGradientBoostingRegressor(max_iter=20), number, gaps, missing)
    row("ada-boost-2", ensemble.AdaBoostClassifier(n_estimators=10), two)
    row("ada-boost-3", ensemble.AdaBoostClassifier(n_estimators=10), three)
    row("ada-boost-regressor", ensemble.AdaBoostRegressor(n_estimators=10), number)
    row("bagging-2", ensemble.BaggingClassifier(n_estimators=5), two)
    row("bagging-regressor", ensemble.BaggingRegressor(n_estimators=5), number)
    row("isolation-forest", ensemble.IsolationForest(n_estimators=20, random_state=1), None, opset={"": 22, "ai.onnx.ml": 3})
    # Far outside it divides small differences of large distances, which differ with every order of summing.
    row("local-outlier-factor", neighbors.LocalOutlierFactor(novelty=True), None, compare=x[:ROWS])

    # several together
    logistic, forest = linear_model.LogisticRegression(), ensemble.RandomForestClassifier(10, max_depth=4, random_state=1)
    bayes = naive_bayes.GaussianNB()
    row("voting-soft", ensemble.VotingClassifier([("a", logistic), ("b", forest), ("c", bayes)], voting="soft", flatten_transform=False), three)
    row("voting-hard", ensemble.VotingClassifier([("a", logistic), ("b", forest), ("c", bayes)], flatten_transform=False), three)
    row("voting-regressor", ensemble.VotingRegressor([("a", linear_model.Ridge()), ("b", tree.DecisionTreeRegressor(max_depth=3))]), number)
    row("stacking", ensemble.StackingClassifier([("a", forest), ("b", bayes)], cv=3), two)
    row("calibrated-sigmoid-2", calibration.CalibratedClassifierCV(svm.LinearSVC(), cv=3), two)
    row("calibrated-sigmoid-3", calibration.CalibratedClassifierCV(svm.LinearSVC(), cv=3), three)
    row("calibrated-isotonic-2", calibration.CalibratedClassifierCV(forest, method="isotonic", cv=3), two)

    # before the estimator
    steps = {
        "standard-scaler": preprocessing.StandardScaler(), "min-max-scaler": preprocessing.MinMaxScaler(), "max-abs-scaler": preprocessing.MaxAbsScaler(),
        "min-max-scaler-clip": preprocessing.MinMaxScaler(clip=True), "robust-scaler": preprocessing.RobustScaler(), "normalizer-l1": preprocessing.Normalizer("l1"), "normalizer-l2": preprocessing.Normalizer("l2"),
        "normalizer-max": preprocessing.Normalizer("max"), "binarizer": preprocessing.Binarizer(threshold=0.3), "polynomial": preprocessing.PolynomialFeatures(2),
        "pca": decomposition.PCA(3), "truncated-svd": decomposition.TruncatedSVD(3), "k-bins": preprocessing.KBinsDiscretizer(4, encode="ordinal", quantile_method="averaged_inverted_cdf"),
        "k-bins-onehot": preprocessing.KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf"), "power": preprocessing.PowerTransformer(), "select-k-best": feature_selection.SelectKBest(k=3),
        "variance-threshold": feature_selection.VarianceThreshold(0.1), "union": pipeline.FeatureUnion([("a", preprocessing.StandardScaler()), ("b", decomposition.PCA(2))]),
        "columns": compose.ColumnTransformer([("a", preprocessing.StandardScaler(), [0, 2]), ("b", preprocessing.MinMaxScaler(), [1, 5])], remainder="passthrough"),
        "columns-drop": compose.ColumnTransformer([("a", preprocessing.StandardScaler(), [4, 2])]),
        "function": preprocessing.FunctionTransformer(),
    }
    for name, step in steps.items():
        row(name, step, three)
        row(f"{name}-logistic", pipe(clone(step), linear_model.LogisticRegression()), three)
    for strategy in ["mean", "median", "most_frequent", "constant"]:
        row(f"imputer-{strategy}", pipe(impute.SimpleImputer(strategy=strategy), preprocessing.StandardScaler(), linear_model.LogisticRegression()), two, gaps, missing)
    zeros = np.where(np.isnan(gaps), 0, gaps).astype(np.float32)
    row("imputer-of-zeros", impute.SimpleImputer(missing_values=0.0), None, zeros)
    row("knn-imputer", impute.KNNImputer(), None, gaps, missing)
    target = (whole[:, 0] + whole[:, 2] > 2).astype(np.int64)
    row("one-hot-ignore", preprocessing.OneHotEncoder(handle_unknown="ignore"), None, whole, unseen)
    row("one-hot-known", pipe(preprocessing.OneHotEncoder(), linear_model.LogisticRegression()), target, whole, whole[:ROWS])
    row("one-hot-logistic", pipe(preprocessing.OneHotEncoder(handle_unknown="ignore"), linear_model.LogisticRegression()), target, whole, unseen)
    row("ordinal", pipe(preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), tree.DecisionTreeClassifier(max_depth=4)), target, whole, unseen)
    row("ordinal-integers", preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, dtype=np.int64), None, whole.astype(np.int64), np.nan_to_num(unseen, nan=3, posinf=1).clip(-9, 9e9).astype(np.int64))
    row("one-hot-integers", preprocessing.OneHotEncoder(handle_unknown="ignore"), None, whole.astype(np.int64), np.nan_to_num(unseen, nan=3, posinf=1).clip(-9, 9e9).astype(np.int64))
    mixed = np.concatenate([x[:, :3], whole], axis=1)
    mixed[::7, 1] = np.nan
    tried = mixed[:ROWS].copy()
    tried[:8, 3] = [7, -1, 2, 1e6, 5, 4, 1e19, np.nan]
    numbers = pipe(impute.SimpleImputer(strategy="median"), preprocessing.StandardScaler())
    both = compose.ColumnTransformer([("n", numbers, [0, 1, 2]), ("c", preprocessing.OneHotEncoder(handle_unknown="ignore"), [3, 4, 5])])
    row("tabular-logistic", pipe(both, linear_model.LogisticRegression()), target, mixed, tried)
    row("tabular-boosting", pipe(both, ensemble.GradientBoostingClassifier(n_estimators=20)), target, mixed, tried)
    row("tabular-svc", pipe(both, svm.SVC(probability=True, random_state=1)), target, mixed, tried)

    # texts, which are refused with what to do instead; and that
    words = np.array(["low", "mid", "high"])[(three - 5) // 10]
    labels = ["holds text", "options={'nocl': True}"]
    row("text-labels-logistic", linear_model.LogisticRegression(), words, refused=labels)
    row("text-labels-forest", ensemble.RandomForestClassifier(10, max_depth=4), words, refused=labels)
    row("text-labels-svc", svm.SVC(), words, refused=labels)
    row("text-labels-as-places-logistic", linear_model.LogisticRegression(), words, options={"nocl": True})
    row("text-labels-as-places-forest", ensemble.RandomForestClassifier(10, max_depth=4), words, options={"nocl": True})
    letters = np.array([["a"], ["b"], ["c"]] * 100, dtype=object)
    encoded = ["texts", "encode them as integers"]
    row("text-categories-one-hot", pipe(preprocessing.OneHotEncoder(handle_unknown="ignore"), logistic), two, letters, None, refused=encoded)
    row("text-categories-ordinal", pipe(preprocessing.OrdinalEncoder(), logistic), two, letters, None, refused=encoded)

    # what the exporter writes as functions of its own, which no runtime but onnxruntime has
    t["knn-imputer"]["refused"] = ["functions", "inlined"]
    return t


def exported(made):
    """As a user without options would: the types from a sample row."""
    from skl2onnx import to_onnx

    estimator, target = made["estimator"], made["target"]
    estimator.fit(made["learn"]) if target is None else estimator.fit(made["learn"], target)
    options = {id(estimator): made["options"]} if "options" in made else None
    return to_onnx(estimator, made["learn"][:1], target_opset=made.get("opset"), options=options)


def classes(model):
    """Labels in the order of the probabilities that ZipMap puts into a map."""
    for node in model.graph.node:
        if node.op_type == "ZipMap":
            attribute = next(a for a in node.attribute if a.name.startswith("classlabels"))
            return list(attribute.ints) or [s.decode() for s in attribute.strings]
    return None
